//! Images that somebody has signed whom the owner trusts: found before anything of them is fetched to run.
//!
//! Called for every image of an attempt before its first container is made ready. A reference is resolved here once, and what comes out is
//! the same image by digest: whoever fetches it afterwards cannot be given another. Signatures lie beside the image in its registry, as cosign
//! puts them; who else is told of a signature, or when it was made, is asked nobody. What must never happen: an image that counts as signed
//! since its registry could not be asked, or a signature that is believed again after the owner has taken its key away.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kerbside_core::owner::Publisher;
use oci_client::Reference;
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::time::timeout;

use super::manifest::{Descriptor, Manifest};
use super::registry::{BUNDLE, digest_of, hex_of};
use super::signature::{Fault, Signature};
use super::{ImageError, Images, parse, used};
use crate::directory;
use crate::pod::PullPolicy;

/// What a payload is in.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where a payload's signature is.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Of an image with more signatures of a form than these the newest are tried, which come last.
const MOST: usize = 32;
/// Bytes; a payload has some hundred.
const PAYLOAD_MAX: u64 = 64 << 10;
/// Bytes; a bundle has some thousand.
const BUNDLE_MAX: u64 = 256 << 10;
/// A registry that gives signatures byte by byte is asked again later.
const PATIENCE: Duration = Duration::from_mins(1);
/// So many faults are told of an image.
const TOLD: usize = 3;

/// An image that is to run, or whose files are to be seen.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// As the Pod says it.
    pub reference: &'a str,
    /// When it is fetched.
    pub policy: PullPolicy,
    /// It is for a container engine; else a module, or files.
    pub engine: bool,
}

/// What a reference was when a signature under it was found, and the signature: it is judged again whenever it is needed.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// With what it is for.
    reference: String,
    digest: String,
    signature: Signature,
}

/// A manifest whose layers may be signatures.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(flatten)]
    blob: Descriptor,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What was found that does not count, and what could not be found out.
#[derive(Default)]
struct Search {
    faults: Vec<Fault>,
    trouble: Option<ImageError>,
}

impl Search {
    fn fault(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) && self.faults.len() < TOLD {
            self.faults.push(fault);
        }
    }

    /// What the registry gave, if it did.
    fn given<T>(&mut self, given: Result<T, ImageError>) -> Option<T> {
        match given {
            Ok(given) => Some(given),
            Err(error) => {
                self.trouble.get_or_insert(error);
                None
            }
        }
    }
}

/// Whom an image's signatures are asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    credentials: &'a BTreeMap<String, String>,
    publishers: &'a [Publisher],
}

impl Images {
    /// The reference by which an image may be fetched: with a digest that one of `publishers` has signed, or as it is if there are none.
    pub async fn signed(
        &self,
        wanted: Wanted<'_>,
        credentials: &BTreeMap<String, String>,
        publishers: &[Publisher],
    ) -> Result<String, ImageError> {
        if publishers.is_empty() {
            return Ok(wanted.reference.to_owned());
        }
        let image = parse(wanted.reference)?;
        let whole = image.whole();
        let known_as = known_as(&whole, wanted.engine);
        let _alone = self.alone(&format!("signature of {known_as}")).await;
        let place = self.inner.root.join("signed");
        let place = place.join(hex_of(&digest_of(known_as.as_bytes()))?);
        // A digest names the same bytes for ever, so there is nothing to ask again.
        let may_remember = wanted.policy != PullPolicy::Always || image.digest().is_some();
        if may_remember && let Some(pinned) = self.kept(&place, (&image, known_as.as_str()), publishers).await {
            used(&place);
            return Ok(pinned);
        }
        if wanted.policy == PullPolicy::Never {
            return Err(ImageError::Never(whole));
        }
        let (bytes, digest) = self.inner.registry.manifest(&image, credentials).await?;
        let mut search = Search::default();
        let asked = Asked {
            credentials,
            publishers,
        };
        for digest in [&digest].into_iter().chain(below(&bytes, wanted.engine).as_ref()) {
            let pinned = image.clone_with_digest(digest.clone());
            let found = timeout(PATIENCE, Box::pin(self.search(&pinned, digest, asked, &mut search))).await;
            if found.is_err() {
                let late = format!("{whole}: the registry takes too long to give its signatures");
                search.trouble.get_or_insert(ImageError::Pull(late));
            }
            if let Ok(Some((signature, publisher))) = found {
                let pinned = pinned.whole();
                self.inner.declined.forget(&known_as);
                tracing::info!(image = pinned, publisher = publisher.name, "image is signed");
                let kept = Kept {
                    reference: known_as,
                    digest: digest.clone(),
                    signature,
                };
                let text = serde_json::to_vec(&kept).map_err(|e| ImageError::Disk(e.into()))?;
                directory::replace(&place, &text).map_err(ImageError::Disk)?;
                return Ok(pinned);
            }
        }
        if let Some(trouble) = search.trouble {
            return Err(trouble);
        }
        let why = unsigned(&whole, &digest, publishers, &search.faults);
        self.inner.declined.note(&known_as, publishers, &why);
        Err(ImageError::Unsigned(why))
    }

    /// Why an image would be refused for its signature, if that was found out a short while ago. Nobody is asked.
    pub fn known_unsigned(&self, wanted: Wanted<'_>, publishers: &[Publisher]) -> Option<String> {
        let whole = parse(wanted.reference).ok()?.whole();
        self.inner.declined.why(&known_as(&whole, wanted.engine), publishers)
    }

    /// What a reference was found to be before, if its signature still counts and there is nothing to ask.
    async fn kept(
        &self,
        place: &Path,
        (image, known_as): (&Reference, &str),
        publishers: &[Publisher],
    ) -> Option<String> {
        let kept: Kept = serde_json::from_slice(&fs::read(place).await.ok()?).ok()?;
        if kept.reference != known_as {
            return None;
        }
        kept.signature.judge(&kept.digest, publishers).ok()?;
        let pinned = image.clone_with_digest(kept.digest).whole();
        // What a tag meant is of use as long as that is in the car.
        let there = image.digest().is_some() || self.has(&pinned).await;
        there.then_some(pinned)
    }

    /// Whether an image was fetched by this reference, whatever for.
    async fn has(&self, whole: &str) -> bool {
        let Ok(name) = hex_of(&digest_of(whole.as_bytes())).map(str::to_owned) else {
            return false;
        };
        let remembered = self.inner.root.join("references").join(name);
        if self.remembered(&remembered, whole).await.is_some() {
            return true;
        }
        match self.pulled(whole) {
            Ok(place) => self.read_pulled(&place, whole).await.is_some(),
            Err(_) => false,
        }
    }

    /// A signature under a manifest that counts, and whose it is.
    async fn search<'a>(
        &self,
        image: &Reference,
        digest: &str,
        asked: Asked<'a>,
        search: &mut Search,
    ) -> Option<(Signature, &'a Publisher)> {
        // As one that is not SHA-256 it could not be run either.
        let hex = search.given(hex_of(digest))?.to_owned();
        let tag = Reference::with_tag(
            image.registry().to_owned(),
            image.repository().to_owned(),
            format!("sha256-{hex}.sig"),
        );
        let beside = self.inner.registry.manifest_if_any(&tag, asked.credentials).await;
        if let Some(Some((bytes, _))) = search.given(beside) {
            let layers = layers(&bytes, PAYLOAD, PAYLOAD_MAX, search);
            for Layer { blob, annotations } in layers {
                let Some(signature) = annotations.get(ANNOTATION) else {
                    search.fault(Fault::Form);
                    continue;
                };
                let payload = self.inner.registry.small_blob(image, &blob, asked.credentials).await;
                let Some(payload) = search.given(payload) else { continue };
                let signature = Signature::of_payload(&payload, signature);
                match signature.judge(digest, asked.publishers) {
                    Ok(publisher) => return Some((signature, publisher)),
                    Err(fault) => search.fault(fault),
                }
            }
        }
        Box::pin(self.search_bundles(image, digest, asked, search)).await
    }

    /// The same among the bundles that refer to the manifest.
    async fn search_bundles<'a>(
        &self,
        image: &Reference,
        digest: &str,
        asked: Asked<'a>,
        search: &mut Search,
    ) -> Option<(Signature, &'a Publisher)> {
        let referrers = self.inner.registry.bundles(image, asked.credentials).await;
        for referrer in newest(search.given(referrers)?) {
            let referrer = image.clone_with_digest(referrer);
            let manifest = self.inner.registry.manifest_if_any(&referrer, asked.credentials).await;
            let Some(Some((bytes, _))) = search.given(manifest) else {
                continue;
            };
            for Layer { blob, .. } in layers(&bytes, BUNDLE, BUNDLE_MAX, search) {
                let bundle = self.inner.registry.small_blob(image, &blob, asked.credentials).await;
                let Some(bundle) = search.given(bundle) else { continue };
                let signatures = Signature::of_bundle(&bundle).unwrap_or_else(|fault| {
                    search.fault(fault);
                    Vec::new()
                });
                for signature in signatures {
                    match signature.judge(digest, asked.publishers) {
                        Ok(publisher) => return Some((signature, publisher)),
                        Err(fault) => search.fault(fault),
                    }
                }
            }
        }
        None
    }
}

/// What is found of an image is kept for what it was found for: an index may have a signed manifest for one thing and an unsigned one for
/// another.
fn known_as(whole: &str, engine: bool) -> String {
    format!("{} {whole}", if engine { "container" } else { "files" })
}

/// The last of what was put behind what was there, the very last first.
fn newest<T>(mut of_all: Vec<T>) -> Vec<T> {
    of_all.reverse();
    of_all.truncate(MOST);
    of_all
}

/// The newest layers of this type that are not too large.
fn layers(manifest: &[u8], media_type: &str, most: u64, search: &mut Search) -> Vec<Layer> {
    let Ok(Signatures { layers }) = serde_json::from_slice(manifest) else {
        search.fault(Fault::Form);
        return Vec::new();
    };
    let of_type = layers.into_iter().filter(|layer| layer.blob.media_type == media_type);
    newest(of_type.collect())
        .into_iter()
        .filter(|layer| {
            let fits = layer.blob.size <= most;
            if !fits {
                search.fault(Fault::Form);
            }
            fits
        })
        .collect()
}

/// The digest of the manifest that an index has for this car: a signature under it counts too, and then it is what runs. The index was
/// checked by its own digest, and what it names is checked by the one that it gives.
fn below(manifest: &[u8], engine: bool) -> Option<String> {
    let manifest = Manifest::parse(manifest).ok()?;
    let chosen = if engine {
        manifest.chosen_by_engine()
    } else {
        manifest.chosen().ok()?
    };
    chosen.map(|chosen| chosen.digest.clone())
}

/// The refusal: what was asked for, what it is now, whose signature was looked for, and what was found.
fn unsigned(image: &str, digest: &str, publishers: &[Publisher], faults: &[Fault]) -> String {
    let names: Vec<_> = publishers.iter().map(|publisher| publisher.name.as_str()).collect();
    let found = if faults.is_empty() {
        "it has none".to_owned()
    } else {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        format!("of what it has, {}", faults.join("; "))
    };
    format!(
        "the owner wants images signed, and {image}, whose digest is {digest}, has no signature that counts of {}: {found}",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests;
