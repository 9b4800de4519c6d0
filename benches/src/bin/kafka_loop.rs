//! What librdkafka does in a plain loop, configured as our source and sink configure it.
//!
//!     kafka_loop read BOOTSTRAP TOPIC
//!     kafka_loop copy BOOTSTRAP TOPIC SINK
//!
//! reads a topic from its beginning to its end, and writes its records to another; prints records and seconds as JSON.
#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (bootstrap, topic, sink) = match words[..] {
        ["read", bootstrap, topic] => (bootstrap, topic, None),
        ["copy", bootstrap, topic, sink] => (bootstrap, topic, Some(sink)),
        _ => return Err("kafka_loop read BOOTSTRAP TOPIC | copy BOOTSTRAP TOPIC SINK".into()),
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "loop")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("enable.partition.eof", "true")
        .create()?;
    let producer: Option<BaseProducer> = match sink {
        None => None,
        Some(_) => Some(
            ClientConfig::new()
                .set("bootstrap.servers", bootstrap)
                .set("enable.idempotence", "true")
                .set("linger.ms", "5")
                .set("queue.buffering.max.kbytes", "32768")
                .set("partitioner", "murmur2_random")
                .create()?,
        ),
    };
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut partitions = HashSet::new();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        partitions.insert(partition.id());
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut begun = None;
    let mut records = 0_u64;
    let mut bytes = 0;
    while !partitions.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                begun.get_or_insert_with(Instant::now);
                records += 1;
                bytes += message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
                if let (Some(producer), Some(sink)) = (&producer, sink) {
                    send(producer, sink, message.key(), message.payload())?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                partitions.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
        }
    }
    while producer.as_ref().is_some_and(|producer| producer.in_flight_count() > 0) {
        producer.iter().for_each(|producer| producer.poll(Duration::from_millis(1)));
    }
    let seconds = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
    println!("{{\"records\": {records}, \"bytes\": {bytes}, \"seconds\": {seconds:.3}}}");
    Ok(())
}

fn send(producer: &BaseProducer, sink: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Failure> {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(sink);
    record.key = key;
    record.payload = value;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
