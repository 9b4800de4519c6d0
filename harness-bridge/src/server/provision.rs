//! `ProvisionService`: what a starting harness asks first.

use std::sync::Arc;

use ferrobeam_proto::fn_execution::provision_service_server::ProvisionService;
use ferrobeam_proto::fn_execution::{GetProvisionInfoRequest, GetProvisionInfoResponse, ProvisionInfo};
use ferrobeam_proto::urns::standard_runner_protocols::{
    CONTROL_RESPONSE_ELEMENTS_EMBEDDING, MONITORING_INFO_SHORT_IDS, MULTIMAP_KEYS_VALUES_SIDE_INPUT,
};
use tonic::{Request, Response, Status};

use crate::shared::Shared;

/// What this runner understands beyond the basics.
const RUNNER_CAPABILITIES: [&str; 3] =
    [MONITORING_INFO_SHORT_IDS, CONTROL_RESPONSE_ELEMENTS_EMBEDDING, MULTIMAP_KEYS_VALUES_SIDE_INPUT];

pub(super) struct Provision {
    shared: Arc<Shared>,
}

impl Provision {
    pub(super) fn new(shared: Arc<Shared>) -> Provision {
        Provision { shared }
    }
}

#[tonic::async_trait]
impl ProvisionService for Provision {
    async fn get_provision_info(
        &self,
        request: Request<GetProvisionInfoRequest>,
    ) -> Result<Response<GetProvisionInfoResponse>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        let config = &self.shared.config;
        let endpoint = Some(self.shared.endpoint.clone());
        let dependencies =
            self.shared.pools.get(&harness.environment).map(|pool| pool.proto().dependencies).unwrap_or_default();
        let info = ProvisionInfo {
            pipeline_options: Some(config.options.clone()),
            retrieval_token: config.job_id.clone(),
            status_endpoint: endpoint.clone(),
            logging_endpoint: endpoint.clone(),
            artifact_endpoint: endpoint.clone(),
            control_endpoint: endpoint,
            dependencies,
            runner_capabilities: RUNNER_CAPABILITIES.map(str::to_owned).to_vec(),
            metadata: [("job_id", &config.job_id), ("job_name", &config.job_name)]
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .into(),
            sibling_worker_ids: Vec::new(),
        };
        Ok(Response::new(GetProvisionInfoResponse { info: Some(info) }))
    }
}
