//! How who works for the service notices that it is gone.

use std::time::Duration;

use tonic::transport::Endpoint;

/// Connections to `endpoint` fail when nothing came from there for `lease`, whatever TCP thinks: a ping is sent after half
/// of it, and its answer waited for as long.
pub(crate) fn leased(endpoint: Endpoint, lease: Duration) -> Endpoint {
    let half = lease / 2;
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(lease)
        .http2_keep_alive_interval(half)
        .keep_alive_timeout(half)
        .keep_alive_while_idle(true)
}
