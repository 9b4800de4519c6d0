//! The calls.

use ferrobeam_proto::expansion::expansion_service_server::ExpansionService;
use ferrobeam_proto::expansion::{
    DiscoverSchemaTransformRequest, DiscoverSchemaTransformResponse, ExpansionRequest, ExpansionResponse,
};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::expansion_methods;
use prost::Message;
use tonic::{Request, Response, Status};

use super::configuration::{Configuration, ExpansionError};
use super::graph::Graph;
use super::managed::{self, Managed};
use super::transforms;

const READ_WITH_METADATA: &str = "beam:transform:org.apache.beam:kafka_read_with_metadata:v1";
const READ_WITHOUT_METADATA: &str = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1";
const WRITE: &str = "beam:transform:org.apache.beam:kafka_write:v1";
const WRITE_WITH_HEADERS: &str = "beam:transform:org.apache.beam:kafka_write_with_headers:v1";

/// Answers for Kafka. What is wrong with a transform is told in the answer, which SDKs show to their users.
#[derive(Debug, Default)]
pub struct KafkaExpansion;

#[tonic::async_trait]
impl ExpansionService for KafkaExpansion {
    async fn expand(&self, request: Request<ExpansionRequest>) -> Result<Response<ExpansionResponse>, Status> {
        let name = request.get_ref().transform.as_ref().map(|asked| asked.unique_name.clone()).unwrap_or_default();
        Ok(Response::new(expand(request.into_inner()).unwrap_or_else(|ExpansionError(what)| ExpansionResponse {
            error: format!("transform \"{name}\": {what}"),
            ..Default::default()
        })))
    }

    async fn discover_schema_transform(
        &self,
        _request: Request<DiscoverSchemaTransformRequest>,
    ) -> Result<Response<DiscoverSchemaTransformResponse>, Status> {
        let schema_transform_configs = managed::discover();
        Ok(Response::new(DiscoverSchemaTransformResponse { schema_transform_configs, ..Default::default() }))
    }
}

/// Expands a transform.
pub(super) fn expand(request: ExpansionRequest) -> Result<ExpansionResponse, ExpansionError> {
    let requirements = request.requirements.clone();
    let mut graph = Graph::of(request);
    let spec = graph.asked.spec.clone().unwrap_or_default();
    let transform = match spec.urn.as_str() {
        urn @ (READ_WITH_METADATA | READ_WITHOUT_METADATA) => {
            let read = transforms::read(row(&spec)?, urn == READ_WITH_METADATA)?;
            transforms::expand_read(&mut graph, &read)?
        }
        urn @ (WRITE | WRITE_WITH_HEADERS) => {
            let write = transforms::write(row(&spec)?, urn == WRITE_WITH_HEADERS)?;
            transforms::expand_write(&mut graph, &write, urn)?
        }
        expansion_methods::SCHEMA_TRANSFORM => {
            let asked = pb::SchemaTransformPayload::decode(spec.payload.clone());
            let asked = asked.map_err(|error| ExpansionError(format!("its payload cannot be read: {error}")))?;
            let schema = asked.configuration_schema.unwrap_or_default();
            let from = Configuration::of_row(&schema, &asked.configuration_row)?;
            match managed::read(&asked.identifier, from)? {
                Managed::Read(read) => transforms::expand_read(&mut graph, &read)?,
                Managed::Write(write) => transforms::expand_write(&mut graph, &write, WRITE)?,
            }
        }
        other => {
            return Err(ExpansionError(format!(
                "{other} is not served here: Ferrobeam expands Kafka's transforms; of others their own SDK's expansion \
                 service does"
            )));
        }
    };
    let components = Some(graph.components);
    Ok(ExpansionResponse { components, transform: Some(transform), requirements, error: String::new() })
}

fn row(spec: &pb::FunctionSpec) -> Result<Configuration, ExpansionError> {
    let payload = pb::ExternalConfigurationPayload::decode(spec.payload.clone());
    let payload = payload.map_err(|error| ExpansionError(format!("its payload cannot be read: {error}")))?;
    Configuration::of_row(&payload.schema.unwrap_or_default(), &payload.payload)
}
