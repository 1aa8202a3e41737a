//! Exec and attach: the five channels between whoever runs kubectl and a tunnel.
//!
//! Each transport turns into parts of a tunnel and back (`spdy`, `socket`); `bridge` lets them flow until one side ends. Channel 3 tells how the program
//! ended: without the car's word on it, it is said that there is none, and never that all is well.

mod socket;
mod spdy;

use bytes::Bytes;
use futures::StreamExt;
use kerbside_link::proto::{Streams, TunnelPart};
use kerbside_link::server::TunnelEnds;
use serde_json::json;
use tokio::sync::mpsc;

use super::upgrade::Transport;
use crate::tunnels::Open;

pub(super) const STDIN: u32 = 0;
pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;
pub(super) const ERROR: u32 = 3;
pub(super) const RESIZE: u32 = 4;

/// Parts that wait between a transport and the tunnel.
const WAITING: usize = 4;

/// Until the program, the car or whoever asked has gone.
pub(super) async fn run(transport: Transport, streams: Streams, open: Open) {
    let (from_person, from) = mpsc::channel(WAITING);
    let (to, to_person) = mpsc::channel(WAITING);
    let bridge = bridge(open, from, to);
    match transport {
        Transport::Spdy(io) => {
            futures::join!(bridge, spdy::run(io, streams, from_person, to_person));
        }
        Transport::Socket(socket, closes) => {
            futures::join!(bridge, socket::run(*socket, streams, closes, from_person, to_person));
        }
    }
}

/// Ends when the car has said how it ended, when it has gone, or when the person has.
async fn bridge(open: Open, mut from: mpsc::Receiver<TunnelPart>, to: mpsc::Sender<TunnelPart>) {
    let Open {
        ends: TunnelEnds { mut from_car, to_car },
        asked: _asked,
    } = open;
    let up = async {
        while let Some(part) = from.recv().await {
            if to_car.send(part).await.is_err() {
                // The car takes no more of it; what it has to say may still come.
                std::future::pending::<()>().await;
            }
        }
    };
    let down = async {
        let mut told = false;
        loop {
            let part = match from_car.next().await {
                Some(Ok(part)) => part,
                Some(Err(fault)) if !told => failure(fault.message()),
                None if !told => failure("the vehicle has gone before the program ended"),
                Some(Err(_)) | None => return,
            };
            told |= part.channel == ERROR;
            if to.send(part).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// A Status of Kubernetes that says that nothing is known of the program's end.
fn failure(why: &str) -> TunnelPart {
    let status = json!({
        "metadata": {},
        "status": "Failure",
        "message": why,
        "reason": "InternalError",
        "code": 500,
    });
    TunnelPart {
        channel: ERROR,
        data: Bytes::from(status.to_string()),
        end: true,
        ..TunnelPart::default()
    }
}

/// Bytes of one channel.
fn part(channel: u32, data: Bytes) -> TunnelPart {
    TunnelPart {
        channel,
        data,
        ..TunnelPart::default()
    }
}

/// The end of one channel.
fn end(channel: u32) -> TunnelPart {
    TunnelPart {
        channel,
        end: true,
        ..TunnelPart::default()
    }
}

#[cfg(test)]
mod tests;
