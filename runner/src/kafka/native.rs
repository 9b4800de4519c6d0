//! What the binding has no call for, or none that can be used: the one place that calls librdkafka itself.
//!
//! - The ids of topics. One that is deleted and made anew under its name has another, and nothing else tells: a reader that
//!   stood at offset 500 of the old one goes on at 500 of the new, if that has so many records, and hears of nothing (librdkafka
//!   2.12.1, Kafka 4.4.0).
//! - Where partitions end, with the records of transactions that are open. A consumer asks by its own `isolation.level`, and is told
//!   where the first open transaction begins, if that is to read what is committed (librdkafka 2.12.1).
//! - Headers. Their names are any bytes; the binding (0.39.0) panics where they are not UTF-8.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

use super::client::Context;
use super::partitions::PartitionName;
use super::record::HeaderView;

/// Runs when it goes.
struct Freed<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Freed<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: `self.1` is the destructor of what librdkafka gave, and runs once.
            unsafe { (self.1)(self.0) }
        }
    }
}

/// Has librdkafka do what only an administrator asks for, with the options of `kind` and an answer within `timeout`. Gives the event
/// with the result, none when nobody has answered in time.
///
/// # Safety
///
/// `client` is alive, and `ask` gives librdkafka nothing that goes before it has returned.
unsafe fn administer(
    client: *mut ffi::rd_kafka_t,
    kind: ffi::rd_kafka_admin_op_t,
    timeout: Duration,
    ask: impl FnOnce(*mut ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
) -> Option<Freed<ffi::rd_kafka_event_t>> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: what is made here is owned by a `Freed`, declared so that what refers to something goes before it.
    unsafe {
        let queue = Freed(ffi::rd_kafka_queue_new(client), ffi::rd_kafka_queue_destroy);
        let options = Freed(ffi::rd_kafka_AdminOptions_new(client, kind), ffi::rd_kafka_AdminOptions_destroy);
        let mut why = [0; 128];
        ffi::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, why.as_mut_ptr(), why.len());
        ask(options.0, queue.0);
        let event = Freed(ffi::rd_kafka_queue_poll(queue.0, millis), ffi::rd_kafka_event_destroy);
        (!event.0.is_null()).then_some(event)
    }
}

/// A partition, and an offset in it.
pub(super) struct EndOf {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// Where partitions end, behind the last record that any broker has taken; of those that brokers tell in time.
pub(super) fn ends(consumer: &BaseConsumer<Context>, names: &[&PartitionName], timeout: Duration) -> Vec<EndOf> {
    let mut found = Vec::new();
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`, which is borrowed. librdkafka copies the list and its names; what the event
    // gives is read while the event is there.
    unsafe {
        let list = Freed(
            ffi::rd_kafka_topic_partition_list_new(i32::try_from(names.len()).unwrap_or(0)),
            ffi::rd_kafka_topic_partition_list_destroy,
        );
        for name in names {
            let Ok(topic) = CString::new(name.topic.as_str()) else { continue };
            let of = ffi::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), name.partition);
            (*of).offset = ffi::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        }
        let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        let event = administer(client, kind, timeout, |options, queue| {
            let all = ffi::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
            drop(Freed(ffi::rd_kafka_AdminOptions_set_isolation_level(options, all), ffi::rd_kafka_error_destroy));
            ffi::rd_kafka_ListOffsets(client, list.0, options, queue);
        });
        let Some(event) = event else { return found };
        let result = ffi::rd_kafka_event_ListOffsets_result(event.0);
        if result.is_null() {
            return found;
        }
        let mut count = 0;
        let infos = ffi::rd_kafka_ListOffsets_result_infos(result, &mut count);
        if infos.is_null() {
            return found;
        }
        for index in 0..count {
            let partition = ffi::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            if partition.is_null() || (*partition).topic.is_null() || (*partition).offset < 0 {
                continue;
            }
            if (*partition).err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                found.push(EndOf {
                    topic: CStr::from_ptr((*partition).topic).to_string_lossy().into_owned(),
                    partition: (*partition).partition,
                    offset: (*partition).offset,
                });
            }
        }
    }
    found
}

/// The ids of those of the topics that have one and are there, by name; none when no broker has answered in time, or it is too
/// old to know (before Kafka 2.8).
pub(super) fn topic_ids<'a>(
    consumer: &BaseConsumer<Context>,
    topics: impl IntoIterator<Item = &'a str>,
    timeout: Duration,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let names: Vec<CString> = topics.into_iter().filter_map(|name| CString::new(name).ok()).collect();
    if names.is_empty() {
        return found;
    }
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`, which is borrowed. Names are copied by `TopicCollection_of_topic_names`. What
    // the event gives is read while the event is there.
    unsafe {
        let topics = Freed(
            ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            ffi::rd_kafka_TopicCollection_destroy,
        );
        let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let event = administer(client, kind, timeout, |options, queue| {
            ffi::rd_kafka_DescribeTopics(client, topics.0, options, queue);
        });
        let Some(event) = event else { return found };
        let result = ffi::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return found;
        }
        let mut count = 0;
        let descriptions = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if descriptions.is_null() {
            return found;
        }
        for index in 0..count {
            let description = *descriptions.add(index);
            let error = ffi::rd_kafka_TopicDescription_error(description);
            let is_good =
                error.is_null() || ffi::rd_kafka_error_code(error) == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
            let (name, id) = (
                ffi::rd_kafka_TopicDescription_name(description),
                ffi::rd_kafka_TopicDescription_topic_id(description),
            );
            if !is_good || name.is_null() || id.is_null() {
                continue;
            }
            let (most, least) =
                (ffi::rd_kafka_Uuid_most_significant_bits(id), ffi::rd_kafka_Uuid_least_significant_bits(id));
            // Their bits as they are: librdkafka's own text of them is kept in the id, which is not ours.
            if (most, least) != (0, 0) {
                found.insert(CStr::from_ptr(name).to_string_lossy().into_owned(), format!("{most:016x}{least:016x}"));
            }
        }
    }
    found
}

/// The headers of a record, in their order. What of a name is not UTF-8 is replaced, as Java does.
pub(super) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<HeaderView<'a>> {
    let mut found = Vec::new();
    // SAFETY: the message is there, and what it holds stays where it is, for as long as it is borrowed. librdkafka ends names with a
    // zero, and gives the length of values.
    unsafe {
        let mut headers = ptr::null_mut();
        let error = ffi::rd_kafka_message_headers(message.ptr(), &mut headers);
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return found;
        }
        for index in 0.. {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            let error = ffi::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut length);
            if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                break;
            }
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), length));
            found.push(HeaderView { key: CStr::from_ptr(name).to_string_lossy(), value });
        }
    }
    found
}
