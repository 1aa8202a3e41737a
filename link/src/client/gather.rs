//! Puts the small pieces of a log together: a program that prints a line at a time must not make a message of each.
//!
//! Used by the bulk lane. HTTP/2 implementations count tiny frames that nobody reads, and close the whole connection when there
//! are too many (h2: `too_many_data_frames`); with it would go the session. Never: a line that waits longer than [`WITHIN`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout_at};

/// A person who follows a log does not notice.
const WITHIN: Duration = Duration::from_millis(50);

/// Enough to be no tiny frame; more comes with the next.
const ENOUGH: usize = 16 * 1024;

type Item = Result<Bytes, String>;

/// The same bytes in the same order, in fewer pieces; an error stays where it is.
pub(super) fn gather(log: impl Stream<Item = Item> + Send + 'static) -> impl Stream<Item = Item> + Send {
    let state: (BoxStream<'static, Item>, Option<Item>) = (log.fuse().boxed(), None);
    stream::unfold(state, |(mut log, left)| async move {
        let first = match left {
            Some(item) => item,
            None => log.next().await?,
        };
        let first = match first {
            Ok(data) if data.len() < ENOUGH => data,
            large_or_error => return Some((large_or_error, (log, None))),
        };
        let deadline = Instant::now() + WITHIN;
        let mut together = BytesMut::from(first);
        let mut left = None;
        while together.len() < ENOUGH && left.is_none() {
            match timeout_at(deadline, log.next()).await {
                Ok(Some(Ok(data))) if data.len() < ENOUGH => together.extend_from_slice(&data),
                Ok(Some(large_or_error)) => left = Some(large_or_error),
                Ok(None) | Err(_) => break,
            }
        }
        Some((Ok(together.freeze()), (log, left)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a line is what the stream yields")]
    fn line(text: &'static str) -> Item {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    async fn gathered(log: impl Stream<Item = Item> + Send + 'static) -> Vec<Item> {
        gather(log).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_are_there_go_together() {
        let log = stream::iter([line("one\n"), line("two\n"), line("three\n")]);
        assert_eq!(gathered(log).await, [line("one\ntwo\nthree\n")]);
    }

    #[tokio::test(start_paused = true)]
    async fn line_does_not_wait_for_the_next_one() {
        let log = stream::iter([line("one\n")]).chain(stream::pending());
        let mut log = Box::pin(gather(log));
        let before = Instant::now();
        assert_eq!(log.next().await, Some(line("one\n")));
        assert!(before.elapsed() <= WITHIN * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn line_that_comes_later_goes_later() {
        let log = stream::iter(0..3).then(|_| async {
            tokio::time::sleep(WITHIN * 3).await;
            line("x")
        });
        assert_eq!(gathered(log).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn error_comes_after_what_was_before_it() {
        let log = stream::iter([line("one\n"), Err("gone".to_owned()), line("two\n")]);
        assert_eq!(
            gathered(log).await,
            [line("one\n"), Err("gone".to_owned()), line("two\n")]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn large_piece_is_passed_on_as_it_is() {
        let large = Bytes::from(vec![7; ENOUGH]);
        let log = stream::iter([line("a"), Ok(large.clone()), line("b")]);
        assert_eq!(gathered(log).await, [line("a"), Ok(large), line("b")]);
    }

    #[tokio::test(start_paused = true)]
    async fn log_of_many_lines_is_a_few_pieces_with_every_byte() {
        let pieces = gathered(stream::iter((0..10_000).map(|_| line("0123456789\n")))).await;
        assert!(pieces.len() < 10, "{}", pieces.len());
        assert_eq!(pieces.iter().map(|p| p.as_ref().unwrap().len()).sum::<usize>(), 110_000);
    }
}
