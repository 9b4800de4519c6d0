//! TestStreams whose events a service has (`TestStreamService` of the interactive API), as notebooks replay recordings.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ferrobeam_proto::interactive::EventsRequest;
use ferrobeam_proto::interactive::test_stream_service_client::TestStreamServiceClient;
use ferrobeam_proto::pipeline::test_stream_payload::Event;
use ferrobeam_proto::pipeline::test_stream_payload::event::Event as Kind;
use ferrobeam_runner::dataflow::{TestEventService, TestEventSink};
use ferrobeam_runner::plan::TestEvent;
use ferrobeam_runner::time::Timestamp;
use tokio::runtime::Handle;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::error::chain;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Dials the services that TestStreams name.
#[derive(Clone, Debug)]
pub struct TestStreamServices {
    runtime: Handle,
}

impl TestStreamServices {
    /// Connections run on `runtime`, which must be a multi-threaded one.
    pub fn new(runtime: Handle) -> TestStreamServices {
        TestStreamServices { runtime }
    }
}

impl TestEventService for TestStreamServices {
    fn open(&self, url: &str, outputs: Vec<String>, sink: TestEventSink) {
        let (url, runtime) = (url.to_owned(), self.runtime.clone());
        // A thread, because a sink blocks while the dataflow is behind. It takes its sink when it has started: a thread
        // that cannot start must not take it along, which would look like the end of the events.
        let (handing, handed) = mpsc::channel::<TestEventSink>();
        let started = thread::Builder::new().name("test-stream".into()).spawn(move || {
            if let Ok(sink) = handed.recv() {
                fetch(&runtime, url, outputs, sink);
            }
        });
        match started {
            // Fails only when the thread is gone, and it waits for this.
            Ok(_) => drop(handing.send(sink)),
            Err(error) => sink.fail(format!("gets no events: no thread can be started for them: {error}")),
        }
    }
}

fn fetch(runtime: &Handle, url: String, outputs: Vec<String>, sink: TestEventSink) {
    let mut events = match runtime.block_on(open(&url, outputs)) {
        Ok(events) => events,
        Err(why) => return sink.fail(why),
    };
    loop {
        let event = match runtime.block_on(events.message()) {
            Ok(Some(event)) => from_proto(event),
            Ok(None) => return,
            Err(status) => {
                return sink.fail(format!("lost the service at {url:?} that has its events: {}", status.message()));
            }
        };
        let Some(event) = event else {
            return sink.fail(format!("got an event from {url:?} that is of no kind that is known"));
        };
        if !sink.give(event) {
            return;
        }
    }
}

async fn open(url: &str, outputs: Vec<String>) -> Result<Streaming<Event>, String> {
    let uri = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| format!("names a service for its events, {url:?}, that is no address: {error}"))?
        .connect_timeout(CONNECT);
    let channel = endpoint.connect().await.map_err(|error| {
        format!("cannot reach the service at {url:?} that has its events ({}): is it still running?", chain(&error))
    })?;
    let mut client = TestStreamServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let answer = client.events(EventsRequest { output_ids: outputs }).await;
    let refused = |status: tonic::Status| format!("gets no events from the service at {url:?}: {}", status.message());
    Ok(answer.map_err(refused)?.into_inner())
}

fn from_proto(event: Event) -> Option<TestEvent> {
    Some(match event.event? {
        Kind::WatermarkEvent(watermark) => {
            TestEvent::Watermark { tag: watermark.tag, to: Timestamp(watermark.new_watermark) }
        }
        Kind::ProcessingTimeEvent(time) => TestEvent::ProcessingTime(time.advance_duration),
        Kind::ElementEvent(added) => {
            let elements = added.elements.into_iter();
            let elements = elements.map(|element| (Timestamp(element.timestamp), element.encoded_element)).collect();
            TestEvent::Elements { tag: added.tag, elements }
        }
    })
}

#[cfg(test)]
mod tests {
    use ferrobeam_proto::interactive::test_stream_service_server::{TestStreamService, TestStreamServiceServer};
    use ferrobeam_proto::pipeline::test_stream_payload::TimestampedElement;
    use ferrobeam_proto::pipeline::test_stream_payload::event::{AddElements, AdvanceProcessingTime, AdvanceWatermark};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status};

    use super::*;

    /// Gives these events of the outputs "a" and "b".
    struct Recorded(Vec<Result<Event, Status>>);

    #[tonic::async_trait]
    impl TestStreamService for Recorded {
        type EventsStream = tokio_stream::Iter<std::vec::IntoIter<Result<Event, Status>>>;

        async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
            if request.get_ref().output_ids != ["a", "b"] {
                return Err(Status::not_found("there is no such recording"));
            }
            Ok(Response::new(tokio_stream::iter(self.0.clone())))
        }
    }

    async fn serve(events: Vec<Result<Event, Status>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(TestStreamServiceServer::new(Recorded(events)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// What a TestStream with these outputs gets from the service at `url`.
    async fn ask(url: &str, outputs: &[&str]) -> Vec<Result<TestEvent, String>> {
        let (sink, inbox) = TestEventSink::new(|| {});
        let outputs = outputs.iter().map(ToString::to_string).collect();
        TestStreamServices::new(Handle::current()).open(url, outputs, sink);
        tokio::task::spawn_blocking(move || inbox.iter().collect()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn events_arrive_in_order() {
        let of = |kind| Ok(Event { event: Some(kind) });
        let element = TimestampedElement { encoded_element: vec![7].into(), timestamp: 5 };
        let url = serve(vec![
            of(Kind::ElementEvent(AddElements { elements: vec![element], tag: "a".into() })),
            of(Kind::WatermarkEvent(AdvanceWatermark { new_watermark: 9, tag: "b".into() })),
            of(Kind::ProcessingTimeEvent(AdvanceProcessingTime { advance_duration: 3 })),
        ])
        .await;
        let expected = vec![
            Ok(TestEvent::Elements { tag: "a".into(), elements: vec![(Timestamp(5), vec![7].into())] }),
            Ok(TestEvent::Watermark { tag: "b".into(), to: Timestamp(9) }),
            Ok(TestEvent::ProcessingTime(3)),
        ];
        assert_eq!(ask(&url, &["a", "b"]).await, expected);
        let refused = format!("gets no events from the service at {url:?}: there is no such recording");
        assert_eq!(ask(&url, &["c"]).await, [Err(refused)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_error_is_told_after_the_events_before_it() {
        let tick = Event { event: Some(Kind::ProcessingTimeEvent(AdvanceProcessingTime { advance_duration: 3 })) };
        let url = serve(vec![Ok(tick.clone()), Err(Status::internal("the recording is broken"))]).await;
        let lost = format!("lost the service at {url:?} that has its events: the recording is broken");
        assert_eq!(ask(&url, &["a", "b"]).await, [Ok(TestEvent::ProcessingTime(3)), Err(lost)]);
        let url = serve(vec![Ok(Event { event: None }), Ok(tick)]).await;
        let unknown = format!("got an event from {url:?} that is of no kind that is known");
        assert_eq!(ask(&url, &["a", "b"]).await, [Err(unknown)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_that_cannot_be_reached_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = listener.local_addr().unwrap().to_string();
        drop(listener);
        let answer = ask(&url, &["a"]).await;
        let [Err(why)] = answer.as_slice() else { panic!("{answer:?}") };
        assert!(why.starts_with(&format!("cannot reach the service at {url:?} that has its events (")), "{why}");
    }
}
