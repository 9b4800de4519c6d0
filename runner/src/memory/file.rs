//! Files for data that does not fit the budget.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Budget;

/// Bytes collected before they are written.
const WRITE_BUFFER: usize = 256 << 10;

/// A temporary file without a name: its space is free again when the last handle is dropped, however the process ends.
/// Read at positions, so that many readers share it.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    folder: PathBuf,
}

impl SpillFile {
    /// An empty file in the budget's folder.
    pub fn create(budget: &Budget) -> io::Result<SpillFile> {
        let folder = budget.spill_dir().to_owned();
        match tempfile::tempfile_in(&folder) {
            Ok(file) => Ok(SpillFile { file, folder }),
            Err(error) => {
                let place = folder.display();
                Err(io::Error::new(error.kind(), format!("creating a file for spilled data in {place}: {error}")))
            }
        }
    }

    /// The `length` bytes at `offset`.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes` from `offset` on.
    pub fn read_into(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|error| self.context("reading", offset, &error))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.context("writing", offset, &error))
    }

    fn context(&self, what: &str, offset: u64, error: &io::Error) -> io::Error {
        let place = self.folder.display();
        io::Error::new(error.kind(), format!("{what} spilled data in {place} (at byte {offset}): {error}"))
    }
}

/// Appends to a [`SpillFile`] through a buffer. What was written can be read after [`SpillWriter::flush`].
#[derive(Debug)]
pub struct SpillWriter {
    file: Arc<SpillFile>,
    written: u64,
    buffer: Vec<u8>,
}

impl SpillWriter {
    /// A writer to a new file.
    pub fn create(budget: &Budget) -> io::Result<SpillWriter> {
        Ok(SpillWriter { file: Arc::new(SpillFile::create(budget)?), written: 0, buffer: Vec::new() })
    }

    /// The file.
    pub fn file(&self) -> &Arc<SpillFile> {
        &self.file
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Bytes of the file that can be read.
    pub fn flushed(&self) -> u64 {
        self.written
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > WRITE_BUFFER {
            self.flush()?;
            if bytes.len() >= WRITE_BUFFER {
                self.file.write(self.written, bytes)?;
                self.written += bytes.len() as u64;
                return Ok(());
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Hands all bytes to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write(self.written, &self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// As [`SpillWriter::flush`], and frees the buffer: for a file that will grow no more.
    pub fn seal(&mut self) -> io::Result<()> {
        self.flush()?;
        self.buffer = Vec::new();
        Ok(())
    }
}

/// Reads a part of a [`SpillFile`] from its start to its end, through a buffer. What it gives shares the buffer.
#[derive(Clone, Debug)]
pub struct SpillReader {
    file: Arc<SpillFile>,
    next: u64,
    end: u64,
    ahead: usize,
    window: Bytes,
    window_start: u64,
}

impl SpillReader {
    /// A reader of `start..end` that reads `ahead` bytes at once.
    pub fn new(file: Arc<SpillFile>, start: u64, end: u64, ahead: usize) -> SpillReader {
        SpillReader { file, next: start, end, ahead, window: Bytes::new(), window_start: start }
    }

    /// The file.
    pub fn file(&self) -> &Arc<SpillFile> {
        &self.file
    }

    /// Where the next byte comes from.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Where the part ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Moves the end to where more was written and flushed.
    pub fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> io::Result<Bytes> {
        self.load(length)?;
        let start = (self.next - self.window_start) as usize;
        self.next += length as u64;
        Ok(self.window.slice(start..start + length))
    }

    /// The next bytes, without taking them: `length`, or fewer at the end.
    pub fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        let length = (self.end - self.next).min(length as u64) as usize;
        self.load(length)?;
        let start = (self.next - self.window_start) as usize;
        Ok(&self.window[start..start + length])
    }

    /// Passes over `length` bytes.
    pub fn skip(&mut self, length: u64) {
        self.next = self.end.min(self.next.saturating_add(length));
    }

    /// Sees to it that the next `length` bytes are in the window.
    fn load(&mut self, length: usize) -> io::Result<()> {
        let end = self.next.saturating_add(length as u64);
        if self.next >= self.window_start && end <= self.window_start + self.window.len() as u64 {
            return Ok(());
        }
        if end > self.end {
            let what = format!("spilled data ends at byte {}, wanted up to {end}", self.end);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        let mut window = BytesMut::zeroed((self.end - self.next).min(self.ahead as u64).max(length as u64) as usize);
        self.file.read_into(self.next, &mut window)?;
        self.window = window.freeze();
        self.window_start = self.next;
        Ok(())
    }
}
