//! Logs: structured, to standard error, with a level that can be changed while the program runs.
//!
//! Called once by each program's `run`, before anything else.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people at a terminal.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Changes the level in flight; behind `PUT /loglevel`.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// A log directive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not in the form `info,kerbside_operator=debug`.
    #[error("'{0}' is not a log filter; write a level (info) or directives (info,kerbside_operator=debug)")]
    Filter(String),
    /// Logging was set up before.
    #[error("failed to set up logging: it was set up before")]
    Twice,
}

impl LogLevel {
    /// Sets the filter from now on.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let new: EnvFilter = filter.trim().parse().map_err(|_| LogError::Filter(filter.to_owned()))?;
        self.0.reload(new).map_err(|_| LogError::Twice)
    }
}

/// Starts logging with `filter`, for example `info` or `info,kerbside_k8s=debug`.
pub fn init(filter: &str, format: Format) -> Result<LogLevel, LogError> {
    let parsed: EnvFilter = filter.parse().map_err(|_| LogError::Filter(filter.to_owned()))?;
    let (layer, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(layer);
    let done = match format {
        Format::Text => registry.with(fmt::layer().with_writer(std::io::stderr)).try_init(),
        Format::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    done.map_err(|_| LogError::Twice)?;
    Ok(LogLevel(handle))
}
