//! The last thing an attempt does: its output and logs go to the cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kerbside_core::attempt::{Event, Kind, State};

use super::{Actor, Order};
use crate::attempts::files;
use crate::cluster::Cluster;
use crate::logs::Log;
use crate::output::{self, Refused};

/// A log alone, and that of a program that failed, is worth this much of a wait, no more: the end is news.
const LOG_ALONE: Duration = Duration::from_secs(20);

impl<C: Cluster> Actor<C> {
    pub(super) fn upload(&mut self) {
        let State::Uploading { outcome, .. } = &self.seed.attempt.state else {
            return;
        };
        let succeeded = outcome.kind == Kind::Succeeded;
        let Some(work) = self.seed.work.clone() else { return };
        let has_output = work.output.is_some();
        let awaited = succeeded && has_output;
        let logs: Vec<(String, Log)> = work
            .containers
            .iter()
            .filter_map(|container| Some((container.name.clone(), self.log(&container.name, false).ok()?)))
            .collect();
        let (directory, cluster, uid) = (
            self.directory.clone(),
            self.context.cluster.clone(),
            self.seed.uid.clone(),
        );
        let stored = Arc::clone(&self.stored);
        let sending = async move {
            let unreadable = |e: &dyn std::fmt::Display| Refused {
                reason: "OutputUnreadable".to_owned(),
                message: format!("the vehicle cannot read the output: {e}"),
            };
            let mut files = Vec::new();
            if let Some(max_bytes) = work
                .output
                .as_ref()
                .filter(|_| succeeded)
                .map(|output| output.max_bytes)
            {
                let (directory, work) = (directory.clone(), Arc::clone(&work));
                let collected = tokio::task::spawn_blocking(move || {
                    let place = files::output_directory(&directory, &work).map_err(|e| unreadable(&e))?;
                    output::collect(&place, max_bytes)
                });
                files = collected.await.map_err(|e| unreadable(&e))??;
            }
            let mut told = Vec::new();
            for (container, log) in logs {
                let item = output::log_file(&container, log, &directory.upload()).await;
                told.push(item.map_err(|e| unreadable(&e))?);
            }
            output::send(&cluster, &uid, &files, &told).await?;
            let bytes = files
                .iter()
                .fold(0u64, |bytes, item| bytes.saturating_add(item.file.size));
            stored.store(bytes, Ordering::Relaxed);
            Ok::<_, Refused>(())
        };
        let uid = self.seed.uid.clone();
        self.child(async move {
            let sent = if awaited {
                sending.await
            } else {
                tokio::time::timeout(LOG_ALONE, sending).await.unwrap_or_else(|_| {
                    let message = "the log did not reach the cluster in time".to_owned();
                    Err(Refused {
                        reason: "LogNotStored".to_owned(),
                        message,
                    })
                })
            };
            Order::Event(match sent {
                Ok(()) => Event::Uploaded,
                Err(Refused { reason, message }) => {
                    tracing::warn!(attempt = %uid, reason, message, "output not stored");
                    if has_output {
                        Event::UploadRefused { reason, message }
                    } else {
                        // The program has done what it should; that its log is lost is no failure of it.
                        Event::Uploaded
                    }
                }
            })
        });
    }
}
