//! Between what the service keeps and what the protocol carries.

use std::time::{SystemTime, UNIX_EPOCH};

use ferrobeam_proto::job::job_message::MessageImportance;
use ferrobeam_proto::job::job_messages_response::Response;
use ferrobeam_proto::job::{JobInfo, JobMessage, JobMessagesResponse, JobStateEvent};

use crate::job::{Event, Importance, Job, Message, State};

pub(super) fn state_event(state: State, time: SystemTime) -> JobStateEvent {
    JobStateEvent { state: state.to_proto().into(), timestamp: Some(time.into()) }
}

pub(super) fn job_info(job: &Job) -> JobInfo {
    let submission = job.submission();
    JobInfo {
        job_id: job.id().to_string(),
        job_name: submission.name.clone(),
        pipeline_options: Some(submission.options.clone()),
        state: job.state().0.to_proto().into(),
    }
}

pub(super) fn event(number: u64, event: Event) -> JobMessagesResponse {
    let response = match event {
        Event::State(state, time) => Response::StateResponse(state_event(state, time)),
        Event::Message(message) => Response::MessageResponse(job_message(number, message)),
    };
    JobMessagesResponse { response: Some(response) }
}

fn job_message(number: u64, message: Message) -> JobMessage {
    let importance = match message.importance {
        Importance::Debug => MessageImportance::JobMessageDebug,
        Importance::Detailed => MessageImportance::JobMessageDetailed,
        Importance::Basic => MessageImportance::JobMessageBasic,
        Importance::Warning => MessageImportance::JobMessageWarning,
        Importance::Error => MessageImportance::JobMessageError,
    };
    JobMessage {
        message_id: number.to_string(),
        time: rfc3339(message.time),
        importance: importance.into(),
        message_text: message.text,
    }
}

/// What stands in the place of messages that are no longer kept.
pub(super) fn gap(before: u64, messages: u64) -> JobMessagesResponse {
    let text = format!("{messages} earlier messages are no longer kept");
    event(before, Event::Message(Message::now(Importance::Basic, text)))
}

/// Such as `2026-01-31T12:34:56.789Z`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date by eras of 400 years, counted from 1 March of the year 0.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_for_people() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }
}
