//! `kubectl fleet logs`: the log of an attempt whose Pod may be long gone.

use std::io::Write;

use kube::Client;

use crate::Error;
use crate::cli::Logs;
use crate::operator_client::OperatorClient;

/// Streams the log of the accepted attempt of one index.
pub async fn run(
    client: &Client,
    system: &str,
    namespace: &str,
    args: &Logs,
    out: &mut impl Write,
) -> Result<(), Error> {
    let operator = OperatorClient::connect(client, system, args.operator.operator.as_deref()).await?;
    let path = format!("/logs/{namespace}/{}/{}", args.job, args.index);
    let mut response = operator.get(&path).await?;
    while let Some(chunk) = response.chunk().await.map_err(|e| Error::Unreachable {
        url: path.clone(),
        source: Box::new(e),
    })? {
        out.write_all(&chunk).map_err(Error::Print)?;
    }
    Ok(())
}
