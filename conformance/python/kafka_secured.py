"""Kafka whose brokers ask who comes: TLS, and each mechanism of SASL. See `kafka_test.py`."""
import base64
import functools
import http.server
import json
import pathlib
import tempfile
import threading
import time
import unittest

import broker
import broker_security
from kafka_test import KafkaTest


@functools.cache
def secured():
  """The broker of these tests, which ends with this process, and its security."""
  folder = tempfile.TemporaryDirectory(prefix='ferrobeam-security-')
  security = broker_security.Security(pathlib.Path(folder.name), broker.lasting_port)
  return broker.Broker(security), security, folder


def base64url(text):
  return base64.urlsafe_b64encode(text.encode()).rstrip(b'=').decode()


class IdentityProvider(http.server.BaseHTTPRequestHandler):
  """Gives whoever has the secret a token that nobody has signed, which the broker takes as it is configured."""
  secret = 'the secret of a client'

  def do_POST(self):  # pylint: disable=invalid-name
    self.rfile.read(int(self.headers['Content-Length']))
    asked = base64.b64decode(self.headers['Authorization'].split()[1]).decode()
    if asked != 'the-client:%s' % self.secret:
      self.send_error(401)
      return
    now = int(time.time())
    claims = {'sub': 'the-client', 'iat': now, 'exp': now + 600}
    token = '%s.%s.' % (base64url(json.dumps({'alg': 'none'})), base64url(json.dumps(claims)))
    answer = json.dumps({'access_token': token, 'token_type': 'bearer', 'expires_in': 600}).encode()
    self.send_response(200)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(answer)))
    self.end_headers()
    self.wfile.write(answer)

  def log_message(self, *_):  # pylint: disable=arguments-differ
    pass


class Secured(KafkaTest):
  """Records go through, of who may, and nobody else; and no secret is told."""

  def make_broker(self):
    brokers, self.security, _ = secured()
    return brokers

  def passes(self, config):
    """Reads and writes, exactly once: consumers, producers and their groups are configured so."""
    self.topics(2)
    sent = [(b'k%d' % (i % 3), b'%d' % i) for i in range(100)]
    self.broker.produce(self.source, sent)
    read, write = self.read(config=config.items(), max_num_records=100), self.write(config.items())
    self.run_bounded(lambda pipeline: self.copy(pipeline, read, write), '--checkpointing_interval=200')
    self.check_numbered(sent, self.broker.read_all(self.sink))

  def says(self, read=(), write=(), but=()):
    """What a job says last that may not read, or may not write. No secret is in what it says, nor in the log."""
    self.topics()
    self.broker.produce(self.source, [(b'k', b'v')])
    job = self.start(lambda pipeline: self.copy(pipeline, self.read(config=read), self.write(write)),
                     '--number_of_execution_retries=0')
    said = self.fails(job)
    told = '\n'.join(job.messages()) + self.service.log.read_text()
    for secret in but:
      self.assertNotIn(secret, told)
    return said

  def test_certificates(self):
    self.passes(self.security.with_certificate())

  def test_plain(self):
    self.passes(self.security.with_password('PLAIN'))

  def test_scram_256(self):
    self.passes(self.security.with_password('SCRAM-SHA-256'))

  def test_scram_512_without_tls(self):
    self.passes(self.security.with_password('SCRAM-SHA-512', 'BARE'))

  def test_properties_of_librdkafka(self):
    config = self.security.client('SASL', sasl_mechanisms='SCRAM-SHA-256', sasl_username=broker_security.USER,
                                  sasl_password=self.security.password, ssl_ca_location=self.security.path('server.pem'))
    self.passes({name: value for name, value in config.items() if 'truststore' not in name})

  def test_password_in_a_file(self):
    """It is read where the job runs, and stands in nothing that is saved."""
    file = pathlib.Path(self.folder) / 'secrets.properties'
    file.write_text('# of tests\nkafka.password = %s\n' % self.security.password)
    self.passes(self.security.with_password('SCRAM-SHA-256', password='${file:%s:kafka.password}' % file))
    saved = [path for path in self.service.storage.rglob('*') if path.is_file()]
    self.assertTrue(saved)
    found = [path for path in saved if self.security.password.encode() in path.read_bytes()]
    self.assertEqual(found, [])

  def test_token_of_an_identity_provider(self):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), IdentityProvider)
    self.addCleanup(server.server_close)
    self.addCleanup(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    jaas = '%s required clientId="the-client" clientSecret="%s";' % (
        broker_security.module('OAUTHBEARER'), IdentityProvider.secret)
    self.passes(self.security.client(
        'SASL', sasl_mechanism='OAUTHBEARER', sasl_jaas_config=jaas,
        sasl_oauthbearer_token_endpoint_url='http://127.0.0.1:%d/token' % server.server_port))

  def test_wrong_password_of_a_reader(self):
    wrong = self.security.with_password('SCRAM-SHA-256', password='not-the-password')
    said = self.says(read=wrong.items(), but=['not-the-password'])
    self.assertIn('uthentication failed', said)

  def test_wrong_password_of_a_writer(self):
    wrong = self.security.with_password('PLAIN', password='not-the-password')
    said = self.says(write=wrong.items(), but=['not-the-password'])
    self.assertIn('uthentication failed', said)

  def test_broker_that_is_not_trusted(self):
    config = {**self.security.with_password('PLAIN'), 'ssl.truststore.location': self.security.path('stranger.pem')}
    said = self.says(read=config.items(), but=[self.security.password])
    self.assertIn('certificate', said)

  def test_certificate_that_the_broker_does_not_know(self):
    said = self.says(read=self.security.with_certificate('stranger').items())
    self.assertIn('do not let this client in', said)


class Rights(KafkaTest):
  """What a client has to be allowed to write exactly once, and what is said to one that is not."""

  def make_broker(self):
    folder = tempfile.TemporaryDirectory(prefix='ferrobeam-security-')
    self.addCleanup(folder.cleanup)
    self.security = broker_security.Security(pathlib.Path(folder.name), broker.lasting_port)
    # Who comes without a name, as the tests do, may do everything.
    return self.own_broker(self.security, **{
        'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer', 'super.users': 'User:ANONYMOUS'})

  def copy_as(self, *rights):
    self.topics()
    self.broker.allow(broker_security.USER, ('topic', self.source, 'read'), ('topic', self.source, 'describe'), *rights)
    config = self.security.with_password('PLAIN').items()
    copy = lambda pipeline: self.copy(pipeline, self.read(config=config), self.write(config))
    return self.start(copy, '--number_of_execution_retries=0')

  def test_rights_that_are_enough(self):
    self.copy_as(
        ('topic', self.sink, 'write'), ('topic', self.sink, 'describe'), ('topic', self.sink, 'read'),
        ('transactional_id', 'ferrobeam', 'write'), ('transactional_id', 'ferrobeam', 'describe'), ('group', 'ferrobeam', 'read'),
        ('group', 'ferrobeam', 'describe'))
    sent = self.numbers(20)
    self.broker.produce(self.source, sent)
    self.check_written_once(sent)

  def refused(self, *rights):
    job = self.copy_as(*rights)
    self.broker.produce(self.source, self.numbers(20))
    self.assertIn('needs the rights Write, Describe and Read on the topic', self.fails(job))

  def test_topic_that_may_not_be_written(self):
    self.refused(
        ('topic', self.sink, 'describe'), ('topic', self.sink, 'read'), ('transactional_id', 'ferrobeam', 'write'),
        ('transactional_id', 'ferrobeam', 'describe'), ('group', 'ferrobeam', 'read'), ('group', 'ferrobeam', 'describe'))

  def test_topic_that_may_not_be_read(self):
    self.refused(
        ('topic', self.sink, 'write'), ('topic', self.sink, 'describe'), ('transactional_id', 'ferrobeam', 'write'),
        ('transactional_id', 'ferrobeam', 'describe'), ('group', 'ferrobeam', 'read'), ('group', 'ferrobeam', 'describe'))

  def test_transactional_id_that_may_not_be_used(self):
    self.refused(
        ('topic', self.sink, 'write'), ('topic', self.sink, 'describe'), ('topic', self.sink, 'read'),
        ('group', 'ferrobeam', 'read'), ('group', 'ferrobeam', 'describe'))


if __name__ == '__main__':
  unittest.main()
