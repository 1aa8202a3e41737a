//! The page itself: one document, one style, one script, one file of texts and a picture, all in the program.
//!
//! Called by [`super::server`]. Nothing of the car is in them, so whoever is in the car's network may have them; a text that is to be
//! translated stands in `texts.json` and nowhere else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{self, HeaderValue};

/// Path, kind, content.
const ALL: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("files/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("files/page.css")),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("files/page.js"),
    ),
    ("/texts.json", "application/json", include_str!("files/texts.json")),
    ("/icon.svg", "image/svg+xml", include_str!("files/icon.svg")),
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<Response<Full<Bytes>>> {
    let (_, kind, content) = ALL.into_iter().find(|(known, ..)| *known == path)?;
    let mut response = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Some(response)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn content(path: &str) -> &'static str {
        ALL.into_iter().find(|(known, ..)| *known == path).unwrap().2
    }

    /// What stands between `from` and the next `to`, everywhere.
    fn between<'a>(text: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
        let pieces = text.split(from).skip(1);
        pieces.filter_map(|piece| Some(piece.split_once(to)?.0)).collect()
    }

    #[test]
    fn page_names_nothing_that_is_not_in_the_car() {
        for (path, _, text) in ALL {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http://", "https://", "url(", "@import", "//cdn"] {
                assert!(!outside.contains(word), "{path} has {word}");
            }
        }
        let html = content("/");
        let named = between(html, "src=\"", "\"")
            .into_iter()
            .chain(between(html, "href=\"", "\""));
        for named in named.filter(|named| !named.starts_with('#')) {
            assert!(
                find(named).is_some() || named.starts_with("/api/v1/"),
                "{named} is named and not there"
            );
        }
        for word in ["<style", "style=\"", "onclick", "javascript:"] {
            assert!(!html.contains(word), "the policy forbids {word}");
        }
        assert_eq!(html.matches("<script").count(), 1, "and it is a file");
    }

    #[test]
    fn every_text_is_in_the_file_of_texts_and_every_text_there_is_used() {
        let texts: BTreeMap<String, String> = serde_json::from_str(content("/texts.json")).unwrap();
        let (html, js) = (content("/"), content("/page.js"));
        let mut used: BTreeSet<&str> = between(html, "data-text=\"", "\"");
        used.extend(between(js, "text(\"", "\""));
        for name in &used {
            assert!(texts.contains_key(*name), "there is no text {name}");
        }
        for name in texts.keys() {
            // Texts for a word of the agent's are put together.
            let word = ["profile.", "standing.", "outcome.", "event."]
                .iter()
                .any(|kind| name.starts_with(kind));
            assert!(word || used.contains(name.as_str()), "text {name} is never shown");
        }
        for profile in crate::profiles::ALL {
            let name = format!("profile.{}", profile.name);
            assert!(texts.contains_key(&name), "{name}");
        }
        for standing in ["available", "paused", "leaving", "away"] {
            assert!(texts.contains_key(&format!("standing.{standing}")));
        }
        for event in ["given", "withdrawn", "expired"] {
            assert!(texts.contains_key(&format!("event.{event}")));
        }
        for outcome in ["succeeded", "failed", "disrupted", "refused"] {
            assert!(texts.contains_key(&format!("outcome.{outcome}")));
        }
        assert!(texts.values().all(|text| !text.is_empty()));
    }
}
