"""Values in Kafka that are rows: the formats AVRO and PROTO, and what becomes of values that are not what they should be.

Records are encoded, and checked, by libraries that have nothing to do with the runner. See `kafka_test.py`.
"""
import decimal
import io
import json
import os
import typing
import unittest

import apache_beam as beam
from apache_beam.transforms import managed
from apache_beam.utils.timestamp import Timestamp
import fastavro
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory

from kafka_test import KafkaTest

ORDERS = '''{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "id", "type": "long"},
  {"name": "name", "type": ["null", "string"]},
  {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["BUY", "SELL"]}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
  {"name": "parts", "type": {"type": "array", "items": {"type": "record", "name": "Part",
    "fields": [{"name": "n", "type": "int"}, {"name": "weight", "type": ["null", "double"]}]}}},
  {"name": "tags", "type": {"type": "map", "values": "string"}}]}'''

PROTO = '''
syntax = "proto3";
package shop;
message Order {
  int64 id = 1;
  optional string name = 2;
  Kind kind = 3;
  repeated Part parts = 4;
  map<string, string> tags = 5;
  uint32 count = 6;
}
enum Kind { BUY = 0; SELL = 1; }
message Part { sint32 n = 1; double weight = 2; }
'''


class Counted(typing.NamedTuple):
  id: int
  count: int


beam.coders.registry.register_coder(Counted, beam.coders.RowCoder)


def order_message():
  """The class of `shop.Order` of PROTO, and its descriptors."""
  field, one, many = descriptor_pb2.FieldDescriptorProto, 1, 3
  file = descriptor_pb2.FileDescriptorProto(name='order.proto', package='shop', syntax='proto3')
  order = file.message_type.add(name='Order')
  order.field.add(name='id', number=1, type=field.TYPE_INT64, label=one)
  order.field.add(name='name', number=2, type=field.TYPE_STRING, label=one, proto3_optional=True, oneof_index=0)
  order.field.add(name='kind', number=3, type=field.TYPE_ENUM, type_name='.shop.Kind', label=one)
  order.field.add(name='parts', number=4, type=field.TYPE_MESSAGE, type_name='.shop.Part', label=many)
  order.field.add(name='tags', number=5, type=field.TYPE_MESSAGE, type_name='.shop.Order.TagsEntry', label=many)
  order.field.add(name='count', number=6, type=field.TYPE_UINT32, label=one)
  order.oneof_decl.add(name='_name')
  entry = order.nested_type.add(name='TagsEntry')
  entry.options.map_entry = True
  entry.field.add(name='key', number=1, type=field.TYPE_STRING, label=one)
  entry.field.add(name='value', number=2, type=field.TYPE_STRING, label=one)
  kind = file.enum_type.add(name='Kind')
  kind.value.add(name='BUY', number=0)
  kind.value.add(name='SELL', number=1)
  part = file.message_type.add(name='Part')
  part.field.add(name='n', number=1, type=field.TYPE_SINT32, label=one)
  part.field.add(name='weight', number=2, type=field.TYPE_DOUBLE, label=one)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  message = message_factory.GetMessageClass(pool.FindMessageTypeByName('shop.Order'))
  return message, descriptor_pb2.FileDescriptorSet(file=[file])


def plain(row):
  """A row as what it is made of."""
  return {
      name: [plain(one) for one in value] if isinstance(value, list) else plain(value) if hasattr(value, '_fields') else value
      for name, value in row._asdict().items()}


def check_orders(rows, orders):
  found = sorted((plain(row) for row in rows), key=lambda row: row['id'])
  assert found == orders, '%s instead of %s' % (found, orders)


# A pipeline of a user's, whose values are not all what they should be.
ERRORS = '''
pipeline:
  transforms:
    - type: ReadFromKafka
      name: Read
      config:
        topic: SOURCE
        format: JSON
        schema: '{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}'
        bootstrap_servers: BOOTSTRAP
        auto_offset_reset_config: earliest
        max_read_time_seconds: 3
        error_handling: {output: bad}
    - type: WriteToKafka
      input: Read
      config: {topic: SINK, format: JSON, bootstrap_servers: BOOTSTRAP}
    - type: MapToFields
      name: Words
      input: Read.bad
      config:
        language: python
        fields:
          words: {callable: "lambda row: row.failed_row.decode() + ': ' + row.error_message", output_type: string}
    - type: Flatten
      name: All
      input: Words
    - type: WriteToKafka
      name: Errors
      input: All
      config: {topic: OTHER, format: STRING, bootstrap_servers: BOOTSTRAP}
'''


class Formats(KafkaTest):
  """Rows that are read and written."""

  def setUp(self):
    super().setUp()
    services = self.expanded_here()
    services.__enter__()
    self.addCleanup(services.__exit__, None, None, None)
    self.topics()

  def managed_read(self, **config):
    return managed.Read(managed.KAFKA, config={
        'bootstrap_servers': self.broker.bootstrap, 'topic': self.source, 'auto_offset_reset_config': 'earliest',
        'max_read_time_seconds': 3, **config})

  def managed_write(self, **config):
    return managed.Write(managed.KAFKA, config={'bootstrap_servers': self.broker.bootstrap, 'topic': self.sink, **config})

  def avro(self, schema, value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()

  def written_avro(self, schema, count):
    parsed = fastavro.parse_schema(schema)
    values = [record.value for record in self.broker.read(self.sink, count)]
    return [fastavro.schemaless_reader(io.BytesIO(value), parsed, None) for value in values]

  def test_avro(self):
    schema = json.loads(ORDERS)
    orders = [{
        'id': at, 'name': None if at % 2 else 'n%d' % at, 'kind': 'SELL', 'at': 1000 * at + 1, 'price': decimal.Decimal('-0.50'),
        'parts': [{'n': -at, 'weight': None}, {'n': 2, 'weight': 0.5}], 'tags': {'a': 'b', 'c': ''}} for at in range(5)]
    self.broker.produce(self.source, [(b'k', self.avro(schema, order)) for order in orders])
    expected = [dict(order, at=Timestamp(micros=1000 * order['at'])) for order in orders]

    def build(pipeline):
      read = pipeline | self.managed_read(format='AVRO', schema=ORDERS)
      _ = read | beam.combiners.ToList() | beam.Map(check_orders, expected)
      return read | self.managed_write(format='AVRO', schema=ORDERS)

    self.run_bounded(build)
    found = sorted(self.written_avro(schema, 5), key=lambda order: order['id'])
    self.assertEqual([dict(order, at=round(1000 * order['at'].timestamp())) for order in found], orders)

  def test_avro_by_a_schema_of_the_rows(self):
    """As Beam's Java SDK makes one."""
    def build(pipeline):
      rows = [beam.Row(id=at, name='n%d' % at, weights=[0.5, at]) for at in range(3)]
      return pipeline | beam.Create(rows) | beam.Map(
          lambda row: beam.Row(id=int(row.id), name=str(row.name), half=float(row.id) / 2)) | self.managed_write(format='AVRO')

    self.run_bounded(build)
    fields = [{'name': 'id', 'type': 'long'}, {'name': 'name', 'type': 'string'}, {'name': 'half', 'type': 'double'}]
    found = self.written_avro({'type': 'record', 'name': 'Row', 'fields': fields}, 3)
    self.assertEqual(sorted(found, key=lambda row: row['id']),
                     [{'id': at, 'name': 'n%d' % at, 'half': at / 2} for at in range(3)])

  def check_proto(self, **schema):
    message, _ = order_message()
    orders = [{
        'id': at, 'name': None if at % 2 else '', 'kind': 'SELL' if at else 'BUY',
        'parts': [{'n': -at, 'weight': 0.5}], 'tags': {'a': 'b', 'c': ''}, 'count': at} for at in range(5)]
    sent = [message(**order) for order in orders]
    self.broker.produce(self.source, [(b'k', order.SerializeToString()) for order in sent])

    def build(pipeline):
      read = pipeline | self.managed_read(format='PROTO', message_name='shop.Order', **schema)
      _ = read | beam.combiners.ToList() | beam.Map(check_orders, orders)
      return read | self.managed_write(format='PROTO', message_name='shop.Order', **schema)

    self.run_bounded(build)
    found = [message.FromString(record.value) for record in self.broker.read(self.sink, 5)]
    self.assertEqual(sorted(found, key=lambda order: order.id), sent)

  def test_proto(self):
    self.check_proto(schema=PROTO)

  def test_proto_of_a_file_of_descriptors(self):
    _, descriptors = order_message()
    path = os.path.join(self.folder, 'order.desc')
    with open(path, 'wb') as file:
      file.write(descriptors.SerializeToString())
    self.check_proto(file_descriptor_path=path)

  def test_a_value_that_is_none_fails_the_job(self):
    """It names where it is, and does not show it."""
    self.broker.produce(self.source, [(b'k', b'a secret')])
    with self.assertRaises(Exception) as raised:
      self.run_bounded(lambda pipeline: pipeline | self.managed_read(format='AVRO', schema=ORDERS))
    self.assertIn('the record at offset 0 of partition 0 of topic %s' % self.source, str(raised.exception))
    self.assertNotIn('secret', str(raised.exception))

  def test_yaml_of_values_that_are_none(self):
    """They go to an output of their own, and the others are read."""
    other = self.source + '-bad'
    self.broker.create_topic(other, 1)
    values = [b'{"id": 1}', b'{"id": "one"}', b'', b'{"id": 2}', b'{']
    self.broker.produce(self.source, [(b'k', value) for value in values])
    self.run_yaml(ERRORS, OTHER=other)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 2)], [b'{"id":1}', b'{"id":2}'])
    self.assertEqual([record.value.decode() for record in self.broker.read(other, 3)], [
        '{"id": "one"}: the record at offset 1 of partition 0 of topic %s: its field "id" is not what the schema says' % self.source,
        ': the record at offset 2 of partition 0 of topic %s: its value is no JSON, at line 1, column 0' % self.source,
        '{: the record at offset 4 of partition 0 of topic %s: its value is no JSON, at line 1, column 1' % self.source,
    ])

  def test_rows_that_cannot_be_written(self):
    """Those that can are, exactly once, and the others go to an output of their own, in their windows."""
    other = self.source + '-bad'
    self.broker.create_topic(other, 1)

    def build(pipeline):
      rows = [Counted(at, at if at % 3 else -1) for at in range(9)]
      rows = pipeline | beam.Create(rows).with_output_types(Counted)
      bad = rows | beam.WindowInto(beam.window.FixedWindows(10)) | self.managed_write(
          format='PROTO', schema=PROTO, message_name='Order', error_handling={'output': 'bad'})
      told = beam.Map(lambda row, window=beam.DoFn.WindowParam: (
          b'%d' % row.failed_row.id, b'%s %d' % (row.error_message.encode(), window.end.micros // 10**6)))
      return bad | told.with_output_types(tuple[bytes, bytes]) | self.write(topic=other)

    self.run_bounded(build, '--checkpointing_interval=200')
    message, _ = order_message()
    found = [message.FromString(record.value) for record in self.broker.read(self.sink, 6)]
    self.assertEqual(sorted(order.id for order in found), [1, 2, 4, 5, 7, 8])
    self.assertEqual(sorted((record.key, record.value) for record in self.broker.read(other, 3)),
                     [(b'%d' % at, b'its field "count" is not what the schema says -9223372036850') for at in (0, 3, 6)])

  def test_what_does_not_go_together_is_refused(self):
    for config, said in [
        ({'format': 'AVRO'}, 'the format AVRO needs a schema'),
        ({'format': 'AVRO', 'schema': '{'}, 'schema: it is no Avro schema'),
        ({'format': 'PROTO', 'schema': PROTO}, 'message_name is missing'),
        ({'format': 'PROTO', 'schema': PROTO, 'message_name': 'None'}, 'there is no single message None'),
        ({'format': 'RAW', 'message_name': 'Order'}, 'message_name is not supported: it belongs to the format PROTO'),
        ({'format': 'RAW', 'error_handling': {'output': 'output'}}, 'call its output otherwise than "output"'),
        ({'format': 'RAW', 'error_handling': {}}, 'error_handling: output is missing'),
    ]:
      with self.subTest(config), self.assertRaises(Exception) as raised:
        _ = beam.Pipeline() | self.managed_read(**config)
      self.assertIn(said, str(raised.exception))


if __name__ == '__main__':
  unittest.main()
