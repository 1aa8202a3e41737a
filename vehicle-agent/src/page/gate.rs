//! Which requests are looked at: pure rules on the head of a request, before anybody asks who sends it.
//!
//! Called by [`super::server`] for each request. A browser on the owner's phone visits other sites too, and each of them may make it
//! send requests here. What must never happen: a request that another site had a browser send is taken for the page's own.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::config;

/// A request that changes something has it: no other site's browser sends it without asking first, and nobody answers yes.
pub(super) const MARK: HeaderName = HeaderName::from_static("x-kerbside");
/// The name of the session's cookie.
pub(super) const COOKIE: &str = "kerbside";

/// A request that is not answered with what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its status.
    pub(super) status: StatusCode,
    /// One sentence for people.
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
        }
    }
}

/// The names that this page is called by, each as a `Host` has it.
#[derive(Debug, Clone)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// The address itself, the names that the car's document has, and `localhost` where that leads here.
    pub(super) fn new(settings: &config::Page) -> Self {
        let address = settings.listen;
        let port = address.port();
        let loopback = address.ip().is_loopback().then(|| format!("localhost:{port}"));
        let names = settings.names.iter().map(|name| format!("{name}:{port}"));
        let mut all: Vec<_> = [address.to_string()].into_iter().chain(names).chain(loopback).collect();
        if port == 80 {
            // A browser leaves it out.
            let short: Vec<_> = all
                .iter()
                .filter_map(|host| host.strip_suffix(":80"))
                .map(str::to_owned)
                .collect();
            all.extend(short);
        }
        Self(all)
    }

    /// Where a person finds it: by the first name, if there is one.
    pub(super) fn origin(&self) -> String {
        let named = self.0.get(1).or_else(|| self.0.first());
        format!("http://{}/", named.map_or("", String::as_str))
    }

    fn has(&self, host: &str) -> bool {
        self.0.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    /// Whether a request may be looked at.
    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let forbidden = |why: &str| Err(Refusal::new(StatusCode::FORBIDDEN, why));
        // A site of somebody else's whose name has come to lead here calls it by that name.
        let Some(host) = single(headers, &header::HOST).filter(|host| self.has(host)) else {
            let why = "the car's page is not called that: see page.names in car.yaml";
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, why));
        };
        // Where a browser says who has it ask, it must be the page, or a person who typed the address.
        if let Some(site) = headers.get("sec-fetch-site")
            && !["same-origin", "none"].iter().any(|well| site == well)
        {
            return forbidden("another site asks");
        }
        if method == Method::GET {
            return Ok(());
        }
        let own = |origin: &str| {
            origin
                .strip_prefix("http://")
                .is_some_and(|name| name.eq_ignore_ascii_case(host))
        };
        if !single(headers, &header::ORIGIN).is_some_and(own) {
            return forbidden("this does not come from the car's own page");
        }
        if headers.get(MARK).is_none() {
            return forbidden("this does not come from the car's own page: x-kerbside is missing");
        }
        Ok(())
    }
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().and_then(|value| value.to_str().ok());
    first.filter(|_| all.next().is_none())
}

/// The token that a request shows.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter();
    all.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// The cookie of a session, or one that ends it. Not `Secure`: in the car's own network there is no TLS.
pub(super) fn cookie(token: Option<&str>) -> HeaderValue {
    let text = match token {
        Some(token) => format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"),
        None => format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"),
    };
    // A token is hexadecimal digits.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn hosts(listen: &str) -> Hosts {
        Hosts::new(&config::Page {
            listen: listen.parse().unwrap(),
            names: vec!["car.local".to_owned()],
        })
    }

    fn headers(lines: &str) -> HeaderMap {
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (
                name.parse::<HeaderName>().unwrap(),
                value.parse::<HeaderValue>().unwrap(),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.split('|').filter(|line| !line.is_empty()).map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[rstest]
    #[case::typed("GET", "host: 192.168.7.1:8080")]
    #[case::by_name("GET", "host: CAR.local:8080|sec-fetch-site: none")]
    #[case::of_the_page("GET", "host: car.local:8080|sec-fetch-site: same-origin")]
    #[case::change(
        "POST",
        "host: car.local:8080|origin: http://car.local:8080|x-kerbside: page|sec-fetch-site: same-origin"
    )]
    #[case::end("DELETE", "host: 192.168.7.1:8080|origin: http://192.168.7.1:8080|x-kerbside: page")]
    fn request_of_the_page_is_looked_at(#[case] method: &str, #[case] lines: &str) {
        let method = method.parse().unwrap();
        hosts("192.168.7.1:8080").admit(&method, &headers(lines)).unwrap();
    }

    #[rstest]
    #[case::no_host("GET", "", 421)]
    #[case::rebinding("GET", "host: evil.example", 421)]
    #[case::rebinding_by_port("GET", "host: evil.example:8080", 421)]
    #[case::two_hosts("GET", "host: car.local:8080|host: evil.example", 421)]
    #[case::without_its_port("GET", "host: car.local", 421)]
    #[case::localhost_elsewhere("GET", "host: localhost:8080", 421)]
    #[case::another_site_reads("GET", "host: car.local:8080|sec-fetch-site: cross-site", 403)]
    #[case::another_port_reads("GET", "host: car.local:8080|sec-fetch-site: same-site", 403)]
    #[case::no_origin("POST", "host: car.local:8080|x-kerbside: page", 403)]
    #[case::other_origin("POST", "host: car.local:8080|origin: http://evil.example|x-kerbside: page", 403)]
    #[case::opaque_origin("POST", "host: car.local:8080|origin: null|x-kerbside: page", 403)]
    #[case::origin_of_another_port("POST", "host: car.local:8080|origin: http://car.local|x-kerbside: page", 403)]
    #[case::origin_by_its_other_name(
        "POST",
        "host: car.local:8080|origin: http://192.168.7.1:8080|x-kerbside: page",
        403
    )]
    #[case::no_mark("POST", "host: car.local:8080|origin: http://car.local:8080", 403)]
    #[case::another_method("PUT", "host: car.local:8080", 403)]
    fn request_that_another_site_could_have_made_is_not(
        #[case] method: &str,
        #[case] lines: &str,
        #[case] status: u16,
    ) {
        let method = method.parse().unwrap();
        let refusal = hosts("192.168.7.1:8080").admit(&method, &headers(lines)).unwrap_err();
        assert_eq!(refusal.status.as_u16(), status, "{}", refusal.why);
    }

    #[test]
    fn page_at_the_usual_port_is_called_without_it() {
        let hosts = hosts("127.0.0.1:80");
        for host in ["127.0.0.1", "127.0.0.1:80", "car.local", "localhost", "localhost:80"] {
            hosts.admit(&Method::GET, &headers(&format!("host: {host}"))).unwrap();
        }
        assert_eq!(hosts.origin(), "http://car.local:80/");
    }

    #[test]
    fn token_is_found_among_other_cookies_and_no_other_is_taken_for_it() {
        assert_eq!(token(&headers("cookie: a=b; kerbside=xyz; c=d")), Some("xyz"));
        assert_eq!(
            token(&headers("cookie: kerbsides=xyz|cookie: kerbside=uvw")),
            Some("uvw")
        );
        assert_eq!(token(&headers("cookie: notkerbside=xyz")), None);
        assert_eq!(token(&headers("")), None);
        let cookie = cookie(Some("ab"));
        let text = cookie.to_str().unwrap();
        assert!(text.contains("kerbside=ab;") && text.contains("HttpOnly") && text.contains("SameSite=Strict"));
    }
}
