//! What the binding has no call for, or none that can be used: the one place that calls librdkafka itself.
//!
//! - The ids of topics. One that is deleted and made anew under its name has another, and nothing else tells: a reader that
//!   stood at offset 500 of the old one goes on at 500 of the new, if that has so many records, and hears of nothing (librdkafka
//!   2.12.1, Kafka 4.4.0).
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
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`, which is borrowed. What librdkafka makes here is owned by a `Freed`,
    // declared so that what refers to something goes before it; names are copied by `TopicCollection_of_topic_names`. What the
    // event gives is read while the event is there.
    unsafe {
        let queue = Freed(ffi::rd_kafka_queue_new(client), ffi::rd_kafka_queue_destroy);
        let options = Freed(
            ffi::rd_kafka_AdminOptions_new(client, ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            ffi::rd_kafka_AdminOptions_destroy,
        );
        let mut why = [0; 128];
        ffi::rd_kafka_AdminOptions_set_request_timeout(options.0, millis, why.as_mut_ptr(), why.len());
        let topics = Freed(
            ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            ffi::rd_kafka_TopicCollection_destroy,
        );
        ffi::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        let event = Freed(ffi::rd_kafka_queue_poll(queue.0, millis), ffi::rd_kafka_event_destroy);
        if event.0.is_null() {
            return found;
        }
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
