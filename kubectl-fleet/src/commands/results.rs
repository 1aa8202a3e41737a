//! `kubectl fleet results`: what the accepted results name, and nothing else, into a directory.
//!
//! Each index gets a folder named by its number. A file is checked against the hash in the accepted result before it gets its name, so
//! that a broken transfer never looks like a result.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use kube::Client;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::cli::Results;
use crate::operator_client::OperatorClient;

/// The operator's answer to `/results/{ns}/{job}`.
#[derive(Debug, Deserialize)]
struct JobResults {
    results: Vec<IndexResult>,
}

/// The accepted result of one index.
#[derive(Debug, Deserialize)]
struct IndexResult {
    index: u32,
    files: Vec<ResultFile>,
}

#[derive(Debug, Deserialize)]
struct ResultFile {
    path: String,
    size: u64,
    sha256: String,
}

/// Fetches every accepted result that is there now.
pub async fn run(
    client: &Client,
    system: &str,
    namespace: &str,
    args: &Results,
    out: &mut impl Write,
) -> Result<(), Error> {
    let operator = OperatorClient::connect(client, system, args.operator.operator.as_deref()).await?;
    let url = format!("/results/{namespace}/{}", args.job);
    let list: JobResults = operator.get(&url).await?.json().await.map_err(|e| Error::Unreachable {
        url: url.clone(),
        source: Box::new(e),
    })?;
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for result in &list.results {
        for file in &result.files {
            let target = args.output.join(result.index.to_string()).join(inside(&file.path)?);
            fetch(
                &operator,
                &format!("{url}/{}/{}", result.index, encoded(&file.path)),
                file,
                &target,
            )
            .await?;
            files += 1;
            bytes += file.size;
        }
    }
    writeln!(
        out,
        "{} of the job's indexes have an accepted result: {files} files, {bytes} bytes in {}",
        list.results.len(),
        args.output.display()
    )
    .map_err(Error::Print)
}

/// The path as one below the target directory. The operator never names others; this holds also if it should.
fn inside(path: &str) -> Result<PathBuf, Error> {
    let parsed = Path::new(path);
    let plain = !path.is_empty() && parsed.components().all(|c| matches!(c, Component::Normal(_)));
    if plain {
        Ok(parsed.to_owned())
    } else {
        Err(Error::Refused(format!(
            "the result names the path '{path}', which leaves the directory"
        )))
    }
}

/// The path as a part of a URL: a program may call its files what it likes, also `a?b#c 100%`.
fn encoded(path: &str) -> String {
    let mut url = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push('%');
            data_encoding::HEXUPPER.encode_append(&[byte], &mut url);
        }
    }
    url
}

async fn fetch(operator: &OperatorClient, url: &str, file: &ResultFile, target: &Path) -> Result<(), Error> {
    let data = operator.get(url).await?.bytes().await.map_err(|e| Error::Unreachable {
        url: url.to_owned(),
        source: Box::new(e),
    })?;
    let found = data_encoding::HEXLOWER.encode(&Sha256::digest(&data));
    if found != file.sha256 {
        return Err(Error::WrongHash {
            file: file.path.clone(),
            found,
            expected: file.sha256.clone(),
        });
    }
    let failed = |source| Error::Write {
        path: target.display().to_string(),
        source,
    };
    if let Some(parent) = target.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
    }
    // Written beside and renamed: whoever looks while this runs sees whole files only.
    let part = target.with_added_extension("part");
    tokio::fs::write(&part, &data).await.map_err(failed)?;
    tokio::fs::rename(&part, target).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{encoded, inside};

    #[rstest::rstest]
    #[case("../x")]
    #[case("/etc/passwd")]
    #[case("a/../../x")]
    #[case("")]
    fn path_that_leaves_the_directory_is_refused(#[case] path: &str) {
        assert!(inside(path).is_err());
    }

    #[rstest::rstest]
    #[case("a/b-1_2.csv~", "a/b-1_2.csv~")]
    #[case("a b/c?d#e", "a%20b/c%3Fd%23e")]
    #[case("100%", "100%25")]
    #[case("größe", "gr%C3%B6%C3%9Fe")]
    fn name_of_a_file_is_encoded_segment_by_segment(#[case] path: &str, #[case] want: &str) {
        assert_eq!(encoded(path), want);
    }

    #[test]
    fn path_below_the_directory_is_kept() {
        assert_eq!(inside("a/b.csv").unwrap(), std::path::Path::new("a/b.csv"));
    }
}
