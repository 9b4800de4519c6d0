//! Savepoints, for whoever owns jobs.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::v1;
use super::v1::savepoints_server::Savepoints;
use crate::job::{JobId, Jobs};
use crate::supervisor::Supervisor;

/// See the module.
#[derive(Debug)]
pub struct SavepointService {
    supervisor: Arc<Supervisor>,
    jobs: Arc<Jobs>,
}

impl SavepointService {
    /// Of the jobs that `supervisor` runs.
    pub fn new(supervisor: Arc<Supervisor>, jobs: Arc<Jobs>) -> SavepointService {
        SavepointService { supervisor, jobs }
    }
}

#[tonic::async_trait]
impl Savepoints for SavepointService {
    async fn take(&self, request: Request<v1::SavepointRequest>) -> Result<Response<v1::SavepointTaken>, Status> {
        let id = JobId::named(request.into_inner().job_id);
        if self.jobs.get(&id).is_none() {
            return Err(Status::not_found(format!("there is no job {id}")));
        }
        let path = self.supervisor.savepoint(&id).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::SavepointTaken { path }))
    }
}
