//! Lines of a program become lines of a log: `2026-11-22T10:00:00.000000000Z stdout F text`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kerbside_core::clock::Clock;
use tokio::sync::watch;

use super::{HALF, Log, Progress, older};
use crate::directory::make_private;

/// A longer line is written in parts.
const LINE_MAX: usize = 16 << 10;

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The log of one run of a container. Clones write to the same log; it is closed when the last one is gone.
#[derive(Debug, Clone)]
pub struct LogWriter {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    in_file: u64,
    /// Bytes in files that were rotated away.
    elsewhere: u64,
    half: u64,
    pending: [Vec<u8>; 2],
    clock: Arc<dyn Clock>,
    progress: watch::Sender<Progress>,
}

impl LogWriter {
    /// Makes a new log at `path`.
    pub fn create(path: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::with_half(path, clock, HALF)
    }

    fn with_half(path: &Path, clock: Arc<dyn Clock>, half: u64) -> io::Result<Self> {
        make_private(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        let file = new_file(path)?;
        let (progress, _) = watch::channel(Progress::default());
        let inner = Inner {
            path: path.to_owned(),
            file,
            in_file: 0,
            elsewhere: 0,
            half,
            pending: Default::default(),
            clock,
            progress,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            path: path.to_owned(),
        })
    }

    /// The log for readers.
    pub fn log(&self) -> Log {
        Log {
            path: self.path.clone(),
            progress: self.lock().progress.subscribe(),
        }
    }

    /// Takes what a program printed.
    pub fn write(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.lock().write(stream, bytes)
    }

    /// Of a log that a container engine writes: tells readers how long it is now. Returns the bytes of the current file.
    pub fn look(&self) -> io::Result<u64> {
        let mut inner = self.lock();
        let length = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            // Renamed, and not made anew yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        inner.in_file = length;
        let written = inner.elsewhere + length;
        inner
            .progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.written, written) != written);
        Ok(length)
    }

    /// Of a log that a container engine writes: makes way for a new file, which the engine makes when it is told to open its log again.
    pub fn rotate(&self) -> io::Result<()> {
        self.look()?;
        let mut inner = self.lock();
        fs::rename(&self.path, older(&self.path))?;
        inner.elsewhere += inner.in_file;
        inner.in_file = 0;
        Ok(())
    }

    /// The engine did not make a new file: the old one is the current one again.
    pub fn take_back(&self) -> io::Result<()> {
        {
            let mut inner = self.lock();
            if self.path.exists() {
                return Ok(());
            }
            fs::rename(older(&self.path), &self.path)?;
            inner.elsewhere = inner.elsewhere.saturating_sub(fs::metadata(&self.path)?.len());
        }
        self.look().map(|_| ())
    }

    /// Writes lines that have no end yet: the program has ended.
    pub fn finish(&self) -> io::Result<()> {
        let mut inner = self.lock();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut inner.pending[stream as usize]);
            if !rest.is_empty() {
                inner.line(stream, true, &rest)?;
            }
        }
        inner.progress.send_modify(|progress| progress.closed = true);
        Ok(())
    }

    /// A lock that another thread left by a panic still guards a usable log.
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            pending.extend(line);
            self.parts(stream, &mut pending)?;
            self.line(stream, true, &pending)?;
            pending.clear();
            bytes = &rest[1..];
        }
        pending.extend(bytes);
        self.parts(stream, &mut pending)?;
        self.pending[stream as usize] = pending;
        Ok(())
    }

    /// Writes the beginning of a line that is too long.
    fn parts(&mut self, stream: Stream, pending: &mut Vec<u8>) -> io::Result<()> {
        while pending.len() > LINE_MAX {
            let rest = pending.split_off(LINE_MAX);
            self.line(stream, false, pending)?;
            *pending = rest;
        }
        Ok(())
    }

    fn line(&mut self, stream: Stream, full: bool, text: &[u8]) -> io::Result<()> {
        if self.in_file >= self.half {
            fs::rename(&self.path, older(&self.path))?;
            self.file = new_file(&self.path)?;
            self.in_file = 0;
        }
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let time = self.clock.wall();
        let tag = if full { 'F' } else { 'P' };
        let mut line = format!("{time:.9} {stream} {tag} ").into_bytes();
        line.extend(text);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.in_file += line.len() as u64;
        self.progress
            .send_modify(|progress| progress.written += line.len() as u64);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    fn lines(path: &Path) -> Vec<String> {
        let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
        // Without the time, which has a test of its own.
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    fn log(half: u64) -> (tempfile::TempDir, LogWriter) {
        let temp = tempfile::tempdir().unwrap();
        let writer = LogWriter::with_half(&temp.path().join("c/0.log"), Arc::new(ManualClock), half).unwrap();
        (temp, writer)
    }

    #[test]
    fn lines_of_both_streams_are_kept_apart() {
        let (_temp, writer) = log(HALF);
        writer.write(Stream::Stdout, b"one\ntw").unwrap();
        writer.write(Stream::Stderr, b"bad\n").unwrap();
        writer.write(Stream::Stdout, b"o\n\nrest").unwrap();
        assert!(!writer.log().progress.borrow().closed);
        writer.finish().unwrap();
        assert_eq!(
            lines(&writer.path),
            [
                "stdout F one",
                "stderr F bad",
                "stdout F two",
                "stdout F ",
                "stdout F rest"
            ]
        );
        assert!(writer.log().progress.borrow().closed);
    }

    #[test]
    fn line_starts_with_a_time_of_nine_digits() {
        let (_temp, writer) = log(HALF);
        writer.write(Stream::Stdout, b"x\n").unwrap();
        assert_eq!(
            fs::read_to_string(&writer.path).unwrap(),
            "2026-11-22T10:00:00.000000000Z stdout F x\n"
        );
    }

    #[test]
    fn long_line_is_written_in_parts() {
        let (_temp, writer) = log(HALF);
        writer.write(Stream::Stdout, &vec![b'a'; LINE_MAX * 2 + 3]).unwrap();
        writer.write(Stream::Stdout, b"b\n").unwrap();
        let lines = lines(&writer.path);
        assert_eq!(
            lines.iter().map(|line| &line[..8]).collect::<Vec<_>>(),
            ["stdout P", "stdout P", "stdout F"]
        );
        assert_eq!(lines[2], "stdout F aaab");
    }

    #[test]
    fn log_never_grows_beyond_its_bound() {
        let (_temp, writer) = log(200);
        for n in 0..100 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
        }
        let (new, old) = (lines(&writer.path), lines(&older(&writer.path)));
        assert!(
            fs::metadata(&writer.path).unwrap().len() < 300 && fs::metadata(older(&writer.path)).unwrap().len() < 300
        );
        assert_eq!(new.last().unwrap(), "stdout F line 99");
        let next: Vec<String> = old.iter().chain(&new).cloned().collect();
        assert_eq!(
            next,
            (100 - next.len()..100)
                .map(|n| format!("stdout F line {n}"))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn log_that_an_engine_writes_is_followed_and_rotated_and_taken_back_if_the_engine_does_not_go_on() {
        let (_temp, log) = log(HALF);
        let path = log.log().path;
        fs::write(&path, "2026-11-27T10:00:00.000000000Z stdout F one\n").unwrap();
        let length = log.look().unwrap();
        assert_eq!(log.log().progress.borrow().written, length);
        log.rotate().unwrap();
        assert!(!path.exists());
        // Who reads now finds what was written.
        let text = crate::logs::reader::tail(&path, 5, 100).unwrap();
        assert_eq!(text, "one\n");
        log.take_back().unwrap();
        assert!(path.exists() && !older(&path).exists());
        assert_eq!(log.log().progress.borrow().written, length, "nothing counts twice");
        // An engine that did make a new file keeps it.
        log.rotate().unwrap();
        fs::write(&path, "new\n").unwrap();
        log.take_back().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }
}
