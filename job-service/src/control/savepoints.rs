//! Savepoints, for whoever owns jobs.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::v1;
use super::v1::savepoints_server::Savepoints;
use crate::checkpoint::Kind;
use crate::job::{Job, JobId, Jobs};
use crate::supervisor::Supervisor;

/// See the module.
#[derive(Debug)]
pub struct SavepointService {
    supervisor: Arc<Supervisor>,
    jobs: Arc<Jobs>,
    /// The storage is a temporary folder of the service.
    is_temporary: bool,
}

impl SavepointService {
    /// Of the jobs that `supervisor` runs. `is_temporary`: what they save goes with the service.
    pub fn new(supervisor: Arc<Supervisor>, jobs: Arc<Jobs>, is_temporary: bool) -> SavepointService {
        SavepointService { supervisor, jobs, is_temporary }
    }

    fn job(&self, id: String) -> Result<Arc<Job>, Status> {
        let id = JobId::named(id);
        self.jobs.get(&id).ok_or_else(|| Status::not_found(format!("there is no job {id}")))
    }
}

#[tonic::async_trait]
impl Savepoints for SavepointService {
    async fn take(&self, request: Request<v1::SavepointRequest>) -> Result<Response<v1::SavepointTaken>, Status> {
        let v1::SavepointRequest { job_id, stop } = request.into_inner();
        let job = self.job(job_id)?;
        let path = self.supervisor.savepoint(job.id(), stop).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::SavepointTaken { path, goes_with_service: self.is_temporary }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let job = self.job(request.into_inner().job_id)?;
        let saved = self.supervisor.saved_states(&job).await.map_err(Status::failed_precondition)?;
        let saved = saved.into_iter().map(|saved| v1::SavedState {
            path: saved.path,
            epoch: saved.epoch.0,
            is_savepoint: saved.kind == Kind::Savepoint,
            created_millis: saved.created,
            bytes: saved.bytes,
            workers: saved.workers,
        });
        Ok(Response::new(v1::ListResponse { saved: saved.collect() }))
    }

    async fn restore(&self, request: Request<v1::RestoreRequest>) -> Result<Response<v1::RestoreResponse>, Status> {
        let v1::RestoreRequest { job_id, path, options } = request.into_inner();
        let job = self.job(job_id)?;
        let path = Some(path).filter(|path| !path.is_empty());
        let (supervisor, options) = (Arc::clone(&self.supervisor), options.into_iter().collect());
        // Carried to its end, whether the client waits for it or not.
        let restored = tokio::spawn(async move { supervisor.restore(&job, path, options).await });
        let restored = restored.await.map_err(|error| Status::internal(error.to_string()))?;
        let again = restored.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(v1::RestoreResponse { job_id: again.id().to_string() }))
    }
}
