//! `BeamFnData`: elements both ways.
//!
//! Inbound elements are parsed here and put into their bundle's outputs, which spill, so that this stream never waits
//! for a bundle: a slow one cannot hold up the others. Outbound messages come through a short channel, where the tasks
//! of the bundles wait for room.

use std::sync::Arc;

use ferrobeam_proto::fn_execution::Elements;
use ferrobeam_proto::fn_execution::beam_fn_data_server::BeamFnData;
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::harness::{Harness, Lookup, StreamKind};
use crate::shared::Shared;

/// Smaller pieces are taken right here: handing them to another thread would cost more than they do.
const INLINE: usize = 128 << 10;

pub(super) struct Data {
    shared: Arc<Shared>,
}

impl Data {
    pub(super) fn new(shared: Arc<Shared>) -> Data {
        Data { shared }
    }
}

#[tonic::async_trait]
impl BeamFnData for Data {
    type DataStream = Outbound<Elements>;

    async fn data(&self, request: Request<Streaming<Elements>>) -> Result<Response<Self::DataStream>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        let (outbound, stream) = harness.connect_data();
        let inbound = request.into_inner();
        self.shared.tasks.spawn(async move {
            harness.stream_opened(StreamKind::Work);
            let why = read(&harness, inbound).await;
            harness.data_ended(&outbound);
            drop(outbound);
            harness.stream_ended(StreamKind::Work);
            // Without it open bundles would wait for ever.
            if !harness.open_bundles().is_empty() {
                harness.disconnected(why);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream).map(Ok))))
    }
}

async fn read(harness: &Arc<Harness>, mut inbound: Streaming<Elements>) -> String {
    loop {
        match inbound.message().await {
            Ok(Some(elements)) => {
                if let Err(why) = take(harness, elements).await {
                    harness.disconnected(why.as_str());
                    return why;
                }
            }
            Ok(None) => return "it ended its data stream while bundles ran".into(),
            Err(status) => return format!("its data stream broke: {}", status.message()),
        }
    }
}

async fn take(harness: &Arc<Harness>, elements: Elements) -> Result<(), String> {
    for data in elements.data {
        match harness.lookup(&data.instruction_id) {
            Lookup::Open(exchange) if data.data.len() <= INLINE => {
                exchange.accept(&data.transform_id, data.data, data.is_last);
            }
            // It may take a while, and write to disk.
            Lookup::Open(exchange) => {
                let taken = spawn_blocking(move || exchange.accept(&data.transform_id, data.data, data.is_last)).await;
                taken.map_err(|error| format!("its output could not be read: {error}"))?;
            }
            Lookup::Finished => {}
            Lookup::Unknown => return Err(unknown(&data.instruction_id)),
        }
    }
    for timers in elements.timers {
        match harness.lookup(&timers.instruction_id) {
            Lookup::Open(exchange) => exchange.accept_timers(timers),
            Lookup::Finished => {}
            Lookup::Unknown => return Err(unknown(&timers.instruction_id)),
        }
    }
    Ok(())
}

fn unknown(instruction: &str) -> String {
    format!("it sent data of an instruction {instruction:?} that it was not given")
}
