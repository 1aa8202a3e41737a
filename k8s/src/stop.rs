//! When a program is to end: Kubernetes' SIGTERM, or Ctrl-C at a terminal.
//!
//! Called once, by each program's `main`. Tests cancel a token of their own and never come here.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled when the process is told to end.
///
/// # Errors
/// SIGTERM cannot be listened for.
pub fn on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        stopper.cancel();
    });
    Ok(stop)
}
