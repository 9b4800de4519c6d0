//! Recording something for as long as it takes.

use std::time::Duration;

use super::error::SaveError;

/// The pause before something is recorded again; it doubles, so often at most.
const PAUSE: Duration = Duration::from_millis(250);
const DOUBLINGS: u32 = 7;

/// Does something that can be done twice, until it succeeds, the jobs are another service's, or it was tried so often.
/// `failed` is told of each failure.
pub(crate) async fn again<F>(
    tries: Option<u32>,
    mut attempt: impl FnMut() -> F,
    mut failed: impl FnMut(&SaveError),
) -> Result<(), SaveError>
where
    F: Future<Output = Result<(), SaveError>>,
{
    let mut tried = 0;
    loop {
        let error = match attempt().await {
            Ok(()) => return Ok(()),
            Err(error @ (SaveError::Closed | SaveError::Replaced)) => return Err(error),
            Err(error) => error,
        };
        failed(&error);
        if tries.is_some_and(|tries| tried + 1 >= tries) {
            return Err(error);
        }
        tokio::time::sleep(PAUSE * (1 << tried.min(DOUBLINGS))).await;
        tried += 1;
    }
}
