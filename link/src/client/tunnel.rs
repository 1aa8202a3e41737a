//! The car's end of a tunnel: the answer to one `OpenTunnel`.
//!
//! Called by the agent through [`Client`]. Never: a tunnel that outlives its session, for whoever wanted it asked over that one.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Client;
use crate::TUNNEL_PARTS;
use crate::fault::Fault;
use crate::proto::{Refusal, TunnelPart};

/// Both directions of a tunnel, at the car.
pub struct Tunnel {
    /// What the adapter sends; its end is the end of the tunnel.
    from_adapter: BoxStream<'static, Result<TunnelPart, Status>>,
    /// What goes to the adapter. Dropped: nothing more comes from the car.
    to_adapter: mpsc::Sender<TunnelPart>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// The next part from the adapter; None: the tunnel has ended, in whatever way.
    pub async fn next(&mut self) -> Option<TunnelPart> {
        self.from_adapter.next().await?.ok()
    }

    /// What goes to the adapter; fails once nobody takes it any more.
    pub fn sender(&self) -> mpsc::Sender<TunnelPart> {
        self.to_adapter.clone()
    }

    /// Both directions apart.
    pub fn split(self) -> (BoxStream<'static, TunnelPart>, mpsc::Sender<TunnelPart>) {
        let parts = self.from_adapter.take_while(|part| std::future::ready(part.is_ok()));
        let parts = parts.filter_map(|part| std::future::ready(part.ok()));
        (parts.boxed(), self.to_adapter)
    }
}

impl Client {
    /// Answers what was asked for under `request_id`.
    ///
    /// # Errors
    /// If nobody waits for it (`not_found`), or the connection was lost or replaced.
    pub async fn tunnel(&self, request_id: &str) -> Result<Tunnel, Fault> {
        let first = TunnelPart {
            request_id: request_id.to_owned(),
            ..TunnelPart::default()
        };
        self.open(first).await
    }

    /// Says why there is no tunnel for what was asked under `request_id`.
    ///
    /// # Errors
    /// If nobody waits for it any more, or the connection was lost or replaced.
    pub async fn refuse_tunnel(&self, request_id: &str, why: Fault) -> Result<(), Fault> {
        let status = Status::from(why);
        let first = TunnelPart {
            request_id: request_id.to_owned(),
            refusal: Some(Refusal {
                code: u32::try_from(i32::from(status.code())).unwrap_or_default(),
                message: status.message().to_owned(),
            }),
            ..TunnelPart::default()
        };
        self.open(first).await.map(drop)
    }

    async fn open(&self, first: TunnelPart) -> Result<Tunnel, Fault> {
        let (to_adapter, parts) = mpsc::channel(TUNNEL_PARTS);
        // There is room, and its reader is in this function.
        let _ = to_adapter.try_send(first);
        let live = self.live().await?;
        let mut client = live.client.clone();
        let answer = self
            .call(&live, async move { client.tunnel(ReceiverStream::new(parts)).await })
            .await?;
        let mut current = self.context.live.subscribe();
        let epoch = live.epoch;
        let replaced = async move {
            // An error means that the client is gone.
            let _ = current
                .wait_for(|live| live.as_ref().is_none_or(|live| live.epoch != epoch))
                .await;
        };
        Ok(Tunnel {
            from_adapter: answer.into_inner().take_until(Box::pin(replaced)).boxed(),
            to_adapter,
        })
    }
}
