//! The calls of the Job API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ferrobeam_proto::job::job_service_server::JobService;
use ferrobeam_proto::job::{
    CancelJobRequest, CancelJobResponse, DescribePipelineOptionsRequest, DescribePipelineOptionsResponse,
    DrainJobRequest, DrainJobResponse, GetJobMetricsRequest, GetJobMetricsResponse, GetJobPipelineRequest,
    GetJobPipelineResponse, GetJobStateRequest, GetJobsRequest, GetJobsResponse, JobMessagesRequest,
    JobMessagesResponse, JobStateEvent, PrepareJobRequest, PrepareJobResponse, RunJobRequest, RunJobResponse,
};
use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::convert::{job_info, state_event};
use super::name;
use super::state::JavaClient;
use super::streams::{self, Replies};
use crate::artifacts::Staging;
use crate::job::{Job, JobId, Jobs, Preparation, PreparationId, RunError, Submission};
use crate::planning::{Accepted, Understood};
use crate::supervisor::{Supervisor, set_options};
use crate::{metrics, options, planning};

/// See the module.
#[derive(Debug)]
pub struct JobApi {
    jobs: Arc<Jobs>,
    supervisor: Arc<Supervisor>,
    artifact_endpoint: String,
    /// How many pipelines came without a name.
    unnamed: Arc<AtomicU64>,
}

impl JobApi {
    /// Over `jobs`, which `supervisor` runs. Clients are sent to `artifact_endpoint` to stage.
    pub fn new(jobs: Arc<Jobs>, supervisor: Arc<Supervisor>, artifact_endpoint: String) -> JobApi {
        JobApi { jobs, supervisor, artifact_endpoint, unnamed: Arc::default() }
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, Status> {
        self.jobs.get(&JobId::named(id)).ok_or_else(|| {
            Status::not_found(format!(
                "there is no job {id:?}: it was never run here, or ended so long ago that its record is gone"
            ))
        })
    }
}

impl JobApi {
    /// Waits until what was asked of a job is on record, so that the next service knows it, too.
    async fn on_record(&self, job: &Job) -> Result<(), Status> {
        if self.supervisor.recorded(job).await {
            return Ok(());
        }
        let text = format!("what is asked of job {} is not on record yet: ask again", job.id());
        Err(Status::unavailable(text))
    }
}

#[tonic::async_trait]
impl JobService for JobApi {
    async fn prepare(&self, request: Request<PrepareJobRequest>) -> Result<Response<PrepareJobResponse>, Status> {
        let (mut request, unnamed) = (request.into_inner(), Arc::clone(&self.unnamed));
        set_options(request.pipeline_options.get_or_insert_default(), self.supervisor.imposed_options());
        // A large pipeline takes a while; a panic in there is an answer and no more.
        let prepared = tokio::task::spawn_blocking(move || prepare(request, &unnamed)).await;
        let preparation = prepared.map_err(|e| Status::internal(format!("preparing the pipeline: {e}")))??;
        let staging_session_token = preparation.staging.token().to_owned();
        let preparation_id = self.jobs.prepare(preparation).to_string();
        let endpoint = ApiServiceDescriptor { url: self.artifact_endpoint.clone(), ..Default::default() };
        Ok(Response::new(PrepareJobResponse {
            preparation_id,
            artifact_staging_endpoint: Some(endpoint),
            staging_session_token,
        }))
    }

    async fn run(&self, request: Request<RunJobRequest>) -> Result<Response<RunJobResponse>, Status> {
        let client = JavaClient::of(&request);
        let id = PreparationId::named(request.into_inner().preparation_id);
        let (job, preparation) = self.jobs.run(&id).map_err(|error| {
            let message = error.to_string();
            match error {
                RunError::Unknown(_) => Status::not_found(message),
                RunError::Already(..) => Status::already_exists(message),
                RunError::NotStaged(_) => Status::failed_precondition(message),
            }
        })?;
        let job_id = job.id().to_string();
        let ends = !preparation.plan.is_unbounded() || preparation.plan.is_test_driven();
        let (supervisor, started) = (Arc::clone(&self.supervisor), Arc::clone(&job));
        // Carried to its end, whether the client waits for it or not.
        let running = tokio::spawn(async move { supervisor.run_recorded(started, *preparation).await });
        let recorded = running.await.map_err(|e| Status::internal(format!("running job {job_id}: {e}")))?;
        recorded.map_err(|e| Status::unavailable(format!("job {job_id} cannot be recorded, and is not run: {e}")))?;
        if let Some(client) = client {
            client.started(&job, ends);
        }
        Ok(Response::new(RunJobResponse { job_id }))
    }

    async fn get_jobs(&self, _: Request<GetJobsRequest>) -> Result<Response<GetJobsResponse>, Status> {
        let job_info = self.jobs.all().iter().map(|job| job_info(job)).collect();
        Ok(Response::new(GetJobsResponse { job_info }))
    }

    async fn get_state(&self, request: Request<GetJobStateRequest>) -> Result<Response<JobStateEvent>, Status> {
        let client = JavaClient::of(&request);
        let job = self.job(&request.into_inner().job_id)?;
        let (state, since) = match client {
            Some(client) => client.state(&job).await,
            None => job.state(),
        };
        Ok(Response::new(state_event(state, since)))
    }

    async fn get_pipeline(
        &self,
        request: Request<GetJobPipelineRequest>,
    ) -> Result<Response<GetJobPipelineResponse>, Status> {
        let job = self.job(&request.into_inner().job_id)?;
        let pipeline = job.submission().pipeline();
        let pipeline = pipeline.map_err(|e| Status::internal(format!("the pipeline of job {}: {e}", job.id())))?;
        Ok(Response::new(GetJobPipelineResponse { pipeline: Some(pipeline) }))
    }

    async fn cancel(&self, request: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        let job = self.job(&request.into_inner().job_id)?;
        self.supervisor.cancel(&job);
        self.on_record(&job).await?;
        Ok(Response::new(CancelJobResponse { state: job.state().0.to_proto().into() }))
    }

    async fn drain(&self, request: Request<DrainJobRequest>) -> Result<Response<DrainJobResponse>, Status> {
        let job = self.job(&request.into_inner().job_id)?;
        let drains = self.supervisor.drain(&job);
        self.on_record(&job).await?;
        let state = job.state().0;
        // Said twice, or of a job that has ended, it changes nothing and the answer says how things stand.
        if drains || state.is_terminal() {
            return Ok(Response::new(DrainJobResponse { state: state.to_proto().into() }));
        }
        Err(Status::failed_precondition(format!("job {} cannot be drained: it is {state}", job.id())))
    }

    type GetStateStreamStream = Replies<JobStateEvent>;

    async fn get_state_stream(
        &self,
        request: Request<GetJobStateRequest>,
    ) -> Result<Response<Self::GetStateStreamStream>, Status> {
        Ok(Response::new(streams::states(self.job(&request.into_inner().job_id)?)))
    }

    type GetMessageStreamStream = Replies<JobMessagesResponse>;

    async fn get_message_stream(
        &self,
        request: Request<JobMessagesRequest>,
    ) -> Result<Response<Self::GetMessageStreamStream>, Status> {
        Ok(Response::new(streams::messages(self.job(&request.into_inner().job_id)?)))
    }

    async fn get_job_metrics(
        &self,
        request: Request<GetJobMetricsRequest>,
    ) -> Result<Response<GetJobMetricsResponse>, Status> {
        let job = self.job(&request.into_inner().job_id)?;
        let metrics = metrics::of(&job);
        let metrics = metrics.map_err(|e| Status::internal(format!("the metrics of job {}: {e}", job.id())))?;
        Ok(Response::new(GetJobMetricsResponse { metrics: Some(metrics) }))
    }

    async fn describe_pipeline_options(
        &self,
        _: Request<DescribePipelineOptionsRequest>,
    ) -> Result<Response<DescribePipelineOptionsResponse>, Status> {
        Ok(Response::new(DescribePipelineOptionsResponse { options: options::describe() }))
    }
}

/// Everything that can be known to be wrong with a submission is said now, and not when it runs.
fn prepare(request: PrepareJobRequest, unnamed: &AtomicU64) -> Result<Preparation, Status> {
    let refuse = |message: String| Status::invalid_argument(message);
    let pipeline = request.pipeline.ok_or_else(|| refuse("the request has no pipeline".to_owned()))?;
    let submitted = request.pipeline_options.unwrap_or_default();
    let staging = Staging::of(&pipeline).map_err(|e| refuse(e.to_string()))?;
    let accepted = planning::accept(pipeline, &submitted).map_err(|e| refuse(e.to_string()))?;
    let Accepted { pipeline, understood: Understood { options, remarks, plan } } = accepted;
    if let Some(start_from) = options.checkpoints.as_ref().and_then(|checkpoints| checkpoints.start_from.as_ref()) {
        start_from.is_there().map_err(|e| refuse(format!("pipeline options refused: savepoint_path: {e}")))?;
    }
    let name = name::chosen(options.job_name.as_deref(), &request.job_name)
        .unwrap_or_else(|| name::made(&pipeline, 1 + unnamed.fetch_add(1, Ordering::Relaxed)));
    Ok(Preparation {
        submission: Submission {
            name,
            options: submitted,
            pipeline: pipeline.encode_to_vec().into(),
            unbounded: plan.is_unbounded(),
        },
        options,
        plan,
        staging: Arc::new(staging),
        remarks,
        time: SystemTime::now(),
    })
}
