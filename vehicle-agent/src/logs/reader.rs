//! Parts of a log, as `kubectl logs` asks for them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Log, older};

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only so many of the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
    /// Each line with its time.
    pub timestamps: bool,
    /// Wait for what comes.
    pub follow: bool,
}

/// How much is given out at once.
const CHUNK: usize = 32 << 10;

/// A log that is being read. Not a `Stream`: a caller asks for the next chunk and may stop at any time.
#[derive(Debug)]
pub struct LogReader {
    log: Log,
    wanted: Wanted,
    files: Vec<BufReader<File>>,
    inode: u64,
    skip: u64,
    left: u64,
    done: bool,
    partial: Vec<u8>,
    continues: bool,
}

impl LogReader {
    /// Opens a log at the first wanted line.
    pub fn open(log: Log, wanted: Wanted) -> io::Result<Self> {
        let current = match File::open(&log.path) {
            // Its engine has not made a new file yet, or the program ended before.
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::open(older(&log.path))?,
            opened => opened?,
        };
        let inode = current.metadata()?.ino();
        let mut files = vec![BufReader::new(current)];
        match File::open(older(&log.path)) {
            Ok(file) if file.metadata()?.ino() != inode => files.insert(0, BufReader::new(file)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let mut skip = 0;
        if let Some(tail) = wanted.tail_lines {
            let mut total = 0_u64;
            for file in &mut files {
                total += count(file, wanted.since)?;
                file.seek(SeekFrom::Start(0))?;
            }
            skip = total.saturating_sub(tail);
        }
        let left = wanted.limit_bytes.unwrap_or(u64::MAX);
        Ok(Self {
            log,
            wanted,
            files,
            inode,
            skip,
            left,
            done: false,
            partial: Vec::new(),
            continues: false,
        })
    }

    /// The next part; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Looked at before the file, so that what is written in between is not missed.
            let progress = *self.log.progress.borrow_and_update();
            let chunk = self.read()?;
            if !chunk.is_empty() {
                return Ok(Some(Bytes::from(chunk)));
            }
            if self.done || !self.wanted.follow || progress.closed {
                return Ok(None);
            }
            // An error means that the writer is gone: what it wrote last is read above.
            if self.log.progress.changed().await.is_err() {
                self.wanted.follow = false;
            }
        }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while !self.done && out.len() < CHUNK {
            let Some(file) = self.files.first_mut() else { break };
            let read = file.read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.partial);
                self.line(&line, &mut out);
            } else if read == 0 {
                let Some(next) = self.next_file()? else { break };
                // Nothing is written to the old file any more; what came between the last look and its end is read first.
                let Some(file) = self.files.first_mut() else { break };
                if file.fill_buf()?.is_empty() {
                    self.inode = next.get_ref().metadata()?.ino();
                    self.files = vec![next];
                }
            }
        }
        Ok(out)
    }

    /// The file after this one, if there is one: the current one, or the one that replaced it.
    fn next_file(&mut self) -> io::Result<Option<BufReader<File>>> {
        if self.files.len() > 1 {
            return Ok(self.files.pop());
        }
        let current = match File::open(&self.log.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let replaced = current.metadata()?.ino() != self.inode;
        Ok(replaced.then(|| BufReader::new(current)))
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(parsed) = Line::parse(line) else { return };
        // The rest of a line that was written in parts belongs to its first part.
        let starts = !std::mem::replace(&mut self.continues, !parsed.full);
        if !parsed.since(self.wanted.since) {
            return;
        }
        if self.skip > 0 {
            self.skip -= u64::from(parsed.full);
            return;
        }
        let mut text = Vec::new();
        if self.wanted.timestamps && starts {
            text.extend(parsed.time);
            text.push(b' ');
        }
        text.extend(parsed.text);
        if parsed.full {
            text.push(b'\n');
        }
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(text.len());
        out.extend(&text[..take]);
        self.left -= take as u64;
        self.done = self.left == 0;
    }
}

struct Line<'a> {
    time: &'a [u8],
    full: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n")?;
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (time, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            time,
            full: tag == b"F",
            text,
        })
    }

    fn since(&self, since: Option<Timestamp>) -> bool {
        let Some(since) = since else { return true };
        let time = std::str::from_utf8(self.time)
            .ok()
            .and_then(|time| time.parse::<Timestamp>().ok());
        time.is_none_or(|time| time >= since)
    }
}

/// How many whole lines of a file are wanted.
fn count(file: &mut BufReader<File>, since: Option<Timestamp>) -> io::Result<u64> {
    let mut lines = 0;
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        if Line::parse(&line).is_some_and(|line| line.full && line.since(since)) {
            lines += 1;
        }
        line.clear();
    }
    Ok(lines)
}

/// The last of a log's text, for a termination message: at most so many lines and bytes.
pub fn tail(path: &Path, lines: u64, bytes: usize) -> io::Result<String> {
    let wanted = Wanted {
        tail_lines: Some(lines),
        ..Wanted::default()
    };
    let mut reader = LogReader::open(Log::closed(path.to_owned()), wanted)?;
    let mut text = Vec::new();
    loop {
        let chunk = reader.read()?;
        if chunk.is_empty() {
            break;
        }
        text.extend(chunk);
    }
    let start = text.len().saturating_sub(bytes);
    Ok(String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use rstest::rstest;

    use super::super::writer::{LogWriter, Stream};
    use super::*;
    use crate::testing::ManualClock;

    fn time(seconds: u32) -> String {
        format!("2026-11-22T10:00:{seconds:02}.000000000Z")
    }

    /// Three lines in the older file, three in the current one, one of them in two parts.
    fn log(directory: &Path) -> Log {
        let path = directory.join("0.log");
        let mut old = String::new();
        for n in 0..3 {
            writeln!(old, "{} stdout F line {n}", time(n)).unwrap();
        }
        fs::write(older(&path), old).unwrap();
        let new = format!(
            "{} stderr P li\n{} stderr F ne 3\n{} stdout F line 4\n{} stdout F line 5\n",
            time(3),
            time(3),
            time(4),
            time(5)
        );
        fs::write(&path, new).unwrap();
        Log::closed(path)
    }

    async fn read(log: Log, wanted: Wanted) -> String {
        let mut reader = LogReader::open(log, wanted).unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            text.extend(chunk);
        }
        String::from_utf8(text).unwrap()
    }

    #[rstest]
    #[case::all(Wanted::default(), "line 0\nline 1\nline 2\nline 3\nline 4\nline 5\n")]
    #[case::tail(Wanted { tail_lines: Some(2), ..Wanted::default() }, "line 4\nline 5\n")]
    #[case::tail_over_files(Wanted { tail_lines: Some(4), ..Wanted::default() }, "line 2\nline 3\nline 4\nline 5\n")]
    #[case::tail_none(Wanted { tail_lines: Some(0), ..Wanted::default() }, "")]
    #[case::tail_more(Wanted { tail_lines: Some(99), ..Wanted::default() }, "line 0\nline 1\nline 2\nline 3\nline 4\nline 5\n")]
    #[case::since(Wanted { since: Some(time(4).parse().unwrap()), ..Wanted::default() }, "line 4\nline 5\n")]
    #[case::since_and_tail(Wanted { since: Some(time(4).parse().unwrap()), tail_lines: Some(1), ..Wanted::default() }, "line 5\n")]
    #[case::limit(Wanted { limit_bytes: Some(10), ..Wanted::default() }, "line 0\nlin")]
    #[case::timestamps(
        Wanted { timestamps: true, tail_lines: Some(3), ..Wanted::default() },
        "2026-11-22T10:00:03.000000000Z line 3\n2026-11-22T10:00:04.000000000Z line 4\n2026-11-22T10:00:05.000000000Z line 5\n"
    )]
    #[tokio::test]
    async fn log_is_read_as_it_is_asked_for(#[case] wanted: Wanted, #[case] expected: &str) {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read(log(temp.path()), wanted).await, expected);
    }

    #[test]
    fn end_of_a_log_is_cut_to_lines_and_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let log = log(temp.path());
        assert_eq!(tail(&log.path, 2, 100).unwrap(), "line 4\nline 5\n");
        assert_eq!(tail(&log.path, 2, 3).unwrap(), " 5\n");
    }

    #[tokio::test]
    async fn log_that_is_followed_gives_what_comes_until_it_is_closed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        let writer = LogWriter::create(&path, Arc::new(ManualClock)).unwrap();
        writer.write(Stream::Stdout, b"first\n").unwrap();
        let reader = tokio::spawn(read(
            writer.log(),
            Wanted {
                follow: true,
                ..Wanted::default()
            },
        ));
        for n in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            writer.write(Stream::Stdout, format!("{n}\n").as_bytes()).unwrap();
            if n == 25 {
                // As the writer does when the file is full; it goes on in a new one.
                writer.write(Stream::Stdout, &vec![b'x'; 6 << 20]).unwrap();
            }
        }
        writer.write(Stream::Stderr, b"last").unwrap();
        writer.finish().unwrap();
        let text = reader.await.unwrap();
        assert!(
            text.starts_with("first\n0\n1\n") && text.ends_with("48\n49\nlast\n"),
            "{} bytes",
            text.len()
        );
    }

    #[tokio::test]
    async fn log_whose_writer_is_gone_ends() {
        let temp = tempfile::tempdir().unwrap();
        let writer = LogWriter::create(&temp.path().join("0.log"), Arc::new(ManualClock)).unwrap();
        writer.write(Stream::Stdout, b"x\n").unwrap();
        let log = writer.log();
        let reader = tokio::spawn(read(
            log,
            Wanted {
                follow: true,
                ..Wanted::default()
            },
        ));
        drop(writer);
        assert_eq!(reader.await.unwrap(), "x\n");
    }
}
