//! Bytes from one end to the other, each piece when the gate lets it pass.
//!
//! Called by `proxy`. A piece is read, waits, and is written: an end that sends faster than the rate is held by full buffers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Pod;
use super::gate::Direction;

/// So much waits for the gate at most, of each connection and direction.
const PIECE: usize = 16 << 10;
/// When one end has said all, the other may be silent for so long.
const IDLE: Duration = Duration::from_mins(10);

/// Carries what `program` and `world` say to each other until both have said all, or one is gone. `Err`: there was more to be said.
pub(super) async fn carry<P, W>(pod: &Pod, program: P, world: W) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite,
    W: AsyncRead + AsyncWrite,
{
    let (program_says, program_hears) = split(program);
    let (world_says, world_hears) = split(world);
    let over = watch::Sender::new(false);
    tokio::try_join!(
        one_way(pod, Direction::Sent, program_says, world_hears, &over),
        one_way(pod, Direction::Received, world_says, program_hears, &over),
    )?;
    Ok(())
}

async fn one_way(
    pod: &Pod,
    direction: Direction,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    over: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read?,
            () = idle(over) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        if read == 0 {
            // An end that does not hear that, hears nothing else either.
            let _ = to.shutdown().await;
            break;
        }
        if !pod.pass(direction, read).await {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        if write(pod, &mut to, piece.get(..read).unwrap_or_default())
            .await
            .is_err()
        {
            // Who does not hear any more may say something still, such as why.
            break;
        }
    }
    over.send_replace(true);
    Ok(())
}

/// All of it, but none while the brake is on: an end that is slow to read must not be fed then.
async fn write(pod: &Pod, to: &mut (impl AsyncWrite + Unpin), mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        if !pod.car.gate.unbraked().await {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        let written = to.write(rest).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    to.flush().await
}

/// Waits until the other way has been over for long.
async fn idle(over: &watch::Sender<bool>) {
    // The sender is there for as long as this is.
    let _ = over.subscribe().wait_for(|over| *over).await;
    sleep(IDLE).await;
}
