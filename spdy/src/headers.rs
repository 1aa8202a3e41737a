//! The headers of a stream: names in lower case, each with one or more values.

/// Names in lower case with their values, in the order of the wire. Values of one name stand beside one another, as on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more value; the name is put in lower case, as SPDY demands.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.push(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// The first value of this name, in whatever case it is asked for.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, v)| v.as_str())
    }

    /// Every name with each of its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    pub(crate) fn push(&mut self, name: String, value: String) {
        let behind = self.0.iter().rposition(|(n, _)| *n == name);
        match behind {
            Some(at) => self.0.insert(at + 1, (name, value)),
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Each name once, with its values in their order.
    pub(crate) fn grouped(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, value) in self.iter() {
            match groups.last_mut().filter(|(n, _)| *n == name) {
                Some((_, values)) => values.push(value),
                None => groups.push((name, vec![value])),
            }
        }
        groups
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        pairs
            .into_iter()
            .fold(Self::default(), |headers, (n, v)| headers.with(n.as_ref(), v.as_ref()))
    }
}
