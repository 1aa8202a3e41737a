//! What the digits job has to give: every line of `examples/digits/expected.csv`, which a Python script made on its own.
//!
//! Called by the demo and by cluster tests with the files that `kubectl fleet results` collected. Pure but for reading files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How the results compare with the expected lines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Lines that were expected.
    pub expected: usize,
    /// The first lines that differ, in words; none if the results are exact.
    pub differences: Vec<String>,
    /// Of the images that training never saw, the share that was told right.
    pub accuracy: f64,
    /// How many images training never saw.
    pub held_back: usize,
}

impl Verdict {
    /// Every line is as expected, and there is no other.
    pub fn exact(&self) -> bool {
        self.differences.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    held_back: HeldBack,
}

#[derive(Deserialize)]
struct HeldBack {
    first: usize,
}

/// So many differences are worth reading; the rest are of the same kind.
const SHOWN: usize = 5;

/// Into how many shares `examples/digits/fleetjob.yaml` cuts the images.
const SHARES: usize = 60;

/// Compares the lines of all `predictions.csv` under `results` with the expected ones of the checkout.
pub fn compare(checkout: &Path, results: &Path) -> Result<Verdict> {
    compare_first(checkout, results, SHARES)
}

/// As [`compare`], for a job that does only the first `shares` of the example's shares.
pub fn compare_first(checkout: &Path, results: &Path, shares: usize) -> Result<Verdict> {
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()));
    let expected = read(&checkout.join("examples/digits/expected.csv"))?;
    let model: Model = serde_json::from_str(&read(&checkout.join("examples/digits/model/model.json"))?)
        .context("failed to read where the model's held-back images begin")?;
    let mut actual = String::new();
    for file in find(results, "predictions.csv")? {
        actual.push_str(&read(&file)?);
    }
    // As the program cuts them: examples/digits/program/main.go.
    let images = shares * expected.lines().count() / SHARES;
    let expected: Vec<&str> = expected.lines().take(images).collect();
    judge(&expected.join("\n"), &actual, model.held_back.first)
}

/// Every file of this name under `dir`.
fn find(dir: &Path, name: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("failed to list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("failed to list {}", dir.display()))?
            .path();
        if path.is_dir() {
            found.extend(find(&path, name)?);
        } else if path.file_name().is_some_and(|n| n == name) {
            found.push(path);
        }
    }
    Ok(found)
}

/// A line is `image,predicted,margin,label`.
fn judge(expected: &str, actual: &str, first_held_back: usize) -> Result<Verdict> {
    let mut lines: BTreeMap<usize, &str> = BTreeMap::new();
    let mut differences = Vec::new();
    for line in actual.lines() {
        let image = line.split(',').next().and_then(|f| f.parse().ok());
        let image = image.with_context(|| format!("'{line}' does not begin with the number of an image"))?;
        if let Some(twice) = lines.insert(image, line) {
            differences.push(format!("image {image} is there twice: '{twice}' and '{line}'"));
        }
    }
    let (mut count, mut right, mut held_back) = (0, 0, 0);
    for (image, want) in expected.lines().enumerate() {
        count += 1;
        let got = lines.remove(&image);
        if got != Some(want) {
            differences.push(format!(
                "image {image}: expected '{want}', got '{}'",
                got.unwrap_or("nothing")
            ));
        }
        if image < first_held_back {
            continue;
        }
        held_back += 1;
        if let Some(got) = got {
            let fields: Vec<&str> = got.split(',').collect();
            let [_, predicted, _, label] = fields[..] else {
                bail!("'{got}' does not have four fields")
            };
            right += usize::from(predicted == label);
        }
    }
    differences.extend(lines.values().map(|line| format!("not expected: '{line}'")));
    differences.truncate(SHOWN);
    #[expect(
        clippy::cast_precision_loss,
        reason = "both are counts of at most some thousand images"
    )]
    let accuracy = if held_back == 0 {
        0.0
    } else {
        right as f64 / held_back as f64
    };
    Ok(Verdict {
        expected: count,
        differences,
        accuracy,
        held_back,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "0,7,100,7\n1,3,50,3\n2,1,40,8\n3,4,90,4\n";

    #[test]
    fn same_lines_in_another_order_are_exact() {
        let verdict = judge(EXPECTED, "2,1,40,8\n3,4,90,4\n0,7,100,7\n1,3,50,3\n", 2).unwrap();
        assert!(verdict.exact(), "{:?}", verdict.differences);
        assert_eq!((verdict.expected, verdict.held_back), (4, 2));
        assert!((verdict.accuracy - 0.5).abs() < 1e-9);
    }

    #[rstest::rstest]
    #[case::missing("0,7,100,7\n1,3,50,3\n2,1,40,8\n", "image 3: expected '3,4,90,4', got 'nothing'")]
    #[case::other(
        "0,7,100,7\n1,3,51,3\n2,1,40,8\n3,4,90,4\n",
        "image 1: expected '1,3,50,3', got '1,3,51,3'"
    )]
    #[case::twice("0,7,100,7\n0,7,100,7\n1,3,50,3\n2,1,40,8\n3,4,90,4\n", "image 0 is there twice")]
    #[case::more("0,7,100,7\n1,3,50,3\n2,1,40,8\n3,4,90,4\n9,1,1,1\n", "not expected: '9,1,1,1'")]
    fn line_that_differs_is_told(#[case] actual: &str, #[case] says: &str) {
        let verdict = judge(EXPECTED, actual, 2).unwrap();
        assert!(
            !verdict.exact() && verdict.differences[0].contains(says),
            "{:?}",
            verdict.differences
        );
    }

    #[test]
    fn line_that_is_no_prediction_is_an_error() {
        assert!(judge(EXPECTED, "hello\n", 2).unwrap_err().to_string().contains("hello"));
    }
}
