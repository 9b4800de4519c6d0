//! What the rest of Ferrobeam relies on in the generated code beyond its names.

use bytes::Bytes;
use ferrobeam_proto::fn_execution::{Elements, elements};
use ferrobeam_proto::pipeline::{Coder, Components, FunctionSpec};
use prost::Message;

#[test]
fn decoded_elements_share_the_received_buffer() {
    let sent = Elements {
        data: vec![elements::Data { data: Bytes::from(vec![7; 4096]), ..Default::default() }],
        ..Default::default()
    };
    let received = Bytes::from(sent.encode_to_vec());
    let decoded = Elements::decode(received.clone()).expect("just encoded");

    assert_eq!(decoded, sent);
    let buffer = received.as_ptr_range();
    assert!(buffer.contains(&decoded.data[0].data.as_ptr()), "the elements were copied out of the message");
}

#[test]
fn maps_are_walked_in_the_order_of_their_keys() {
    let ids = ["c", "a", "d", "b"];
    let coders = ids.map(|id| {
        let spec = FunctionSpec { urn: format!("urn of {id}"), ..Default::default() };
        (id.to_owned(), Coder { spec: Some(spec), ..Default::default() })
    });
    let sent = Components { coders: coders.into_iter().collect(), ..Default::default() };
    let decoded = Components::decode(sent.encode_to_vec().as_slice()).expect("just encoded");
    assert_eq!(decoded.coders.keys().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}
