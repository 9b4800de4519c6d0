//! The output of a started process: to the log, and its last lines into the message that says how it ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::config::BridgeConfig;
use crate::log::Severity;

/// Lines kept for the message.
const LINES: usize = 20;
/// A longer line is cut there; a process may write without ever ending a line.
const LINE_BYTES: usize = 8 << 10;

/// The last lines that a process wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl LastLines {
    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn add(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Reads `from` to its end.
    pub(crate) async fn follow(
        self,
        from: impl AsyncRead + Unpin,
        config: Arc<BridgeConfig>,
        environment: String,
        harness: String,
    ) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_BYTES as u64).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !text.is_empty() {
                config.note(Severity::Info, &environment, &harness, text.clone());
                self.add(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Collected, config};

    #[tokio::test]
    async fn keeps_the_last_lines_and_cuts_endless_ones() {
        let logs = Arc::new(Collected::default());
        let mut written = (0..30).map(|n| format!("line {n}\n")).collect::<String>().into_bytes();
        written.extend(vec![b'x'; 3 * LINE_BYTES]);
        let last = LastLines::default();
        last.clone().follow(&written[..], Arc::new(config(logs.clone())), "e".into(), "h".into()).await;
        let text = last.text();
        assert_eq!(text.lines().count(), LINES);
        assert!(text.starts_with("line 13\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= LINE_BYTES));
        assert_eq!(logs.entries().len(), 33);
    }
}
