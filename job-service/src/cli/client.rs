//! The commands' side of the Job API.

use anyhow::{Context, bail};
use ferrobeam_proto::job::job_service_client::JobServiceClient;
use ferrobeam_proto::job::{GetJobsRequest, JobInfo, job_state};
use tonic::transport::{Channel, Endpoint};

pub(super) type JobClient = JobServiceClient<Channel>;

/// Connects to the service at `endpoint`, HOST:PORT.
pub(super) async fn connect(endpoint: &str) -> anyhow::Result<JobClient> {
    Ok(JobServiceClient::new(channel(endpoint).await?).max_decoding_message_size(usize::MAX))
}

/// The same, for other services than the Job API.
pub(super) async fn channel(endpoint: &str) -> anyhow::Result<Channel> {
    let url = format!("http://{}", endpoint.trim_start_matches("http://"));
    let address = Endpoint::from_shared(url).with_context(|| format!("{endpoint} is not an address HOST:PORT"))?;
    let channel = address.tcp_nodelay(true).connect().await;
    channel.with_context(|| {
        format!(
            "no job service answers at {endpoint}: start one with `ferrobeam serve`, or name another with --endpoint"
        )
    })
}

/// All jobs of the service.
pub(super) async fn jobs(client: &mut JobClient) -> anyhow::Result<Vec<JobInfo>> {
    Ok(client.get_jobs(GetJobsRequest {}).await.map_err(said)?.into_inner().job_info)
}

/// The one job whose id starts with `prefix`.
pub(super) async fn find(client: &mut JobClient, prefix: &str) -> anyhow::Result<String> {
    let ids: Vec<String> = jobs(client).await?.into_iter().map(|job| job.job_id).collect();
    if ids.iter().any(|id| id == prefix) {
        return Ok(prefix.to_owned());
    }
    let mut fitting: Vec<String> = ids.into_iter().filter(|id| id.starts_with(prefix)).collect();
    match fitting.len() {
        0 => bail!("there is no job {prefix}; `ferrobeam jobs` lists all"),
        1 => Ok(fitting.remove(0)),
        _ => bail!("{prefix} may be any of: {}", fitting.join(", ")),
    }
}

/// What the service said, without the transport's wrapping.
pub(super) fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

pub(super) fn state_name(state: i32) -> &'static str {
    job_state::Enum::try_from(state).map_or("UNKNOWN", |state| state.as_str_name())
}
