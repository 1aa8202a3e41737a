//! How programs are told of their way out: by the variables that HTTP clients read.
//!
//! Called when a container starts. What the Pod says itself stays.

use std::net::{IpAddr, SocketAddr};

/// A name in the two spellings that are in use.
const PROXIES: [[&str; 2]; 2] = [["HTTP_PROXY", "http_proxy"], ["HTTPS_PROXY", "https_proxy"]];
const DIRECT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Adds the variables to an environment. `address`: the Pod's own, which is reached without a proxy.
pub(crate) fn tell(env: &mut Vec<(String, String)>, proxy: SocketAddr, address: Option<IpAddr>) {
    let direct = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = address.map(|address| address.to_string());
    let direct: Vec<_> = direct.into_iter().chain(own).collect();
    let values = PROXIES
        .map(|names| (names, format!("http://{proxy}")))
        .into_iter()
        .chain([(DIRECT, direct.join(","))]);
    for (names, value) in values {
        // A program that reads the other spelling first must not be told otherwise.
        if env.iter().any(|(known, _)| names.contains(&known.as_str())) {
            continue;
        }
        env.extend(names.map(|name| (name.to_owned(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mut env: Vec<(String, String)>) -> Vec<String> {
        tell(&mut env, "127.0.0.1:40000".parse().unwrap(), "10.98.0.2".parse().ok());
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn programs_are_told_in_both_spellings() {
        assert_eq!(
            told(vec![("A".to_owned(), "b".to_owned())]),
            [
                "A=b",
                "HTTP_PROXY=http://127.0.0.1:40000",
                "http_proxy=http://127.0.0.1:40000",
                "HTTPS_PROXY=http://127.0.0.1:40000",
                "https_proxy=http://127.0.0.1:40000",
                "NO_PROXY=localhost,127.0.0.1,::1,10.98.0.2",
                "no_proxy=localhost,127.0.0.1,::1,10.98.0.2",
            ]
        );
    }

    #[test]
    fn what_a_pod_says_itself_stays_in_either_spelling() {
        let told = told(vec![
            ("https_proxy".to_owned(), String::new()),
            ("NO_PROXY".to_owned(), "*".to_owned()),
        ]);
        let of = |name: &str| told.iter().filter(|line| line.to_lowercase().starts_with(name)).count();
        assert_eq!([of("http_proxy"), of("https_proxy"), of("no_proxy")], [2, 1, 1]);
    }
}
