//! Reads typed values and collects what is wrong, so that one start tells every mistake.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::{Limit, Rate, Scope, ServiceKey};

/// One variable's mistake. It never shows the value: that may be a secret.
#[derive(Debug)]
pub struct Problem {
    pub variable: String,
    pub wrong: String,
    pub right: String,
}

/// Every mistake in the configuration; prints one a line.
#[derive(Debug, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether one of them is this variable's.
    pub fn concern(&self, variable: &str) -> bool {
        self.0.iter().any(|problem| problem.variable == variable)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for Problem { variable, wrong, right } in &self.0 {
            writeln!(f, "  {variable} {wrong}; right would be: {right}")?;
        }
        Ok(())
    }
}

/// Parts of secrets that people copy from samples.
const SAMPLES: [&str; 13] = [
    "changeme",
    "change-me",
    "change_me",
    "your-secret",
    "your_secret",
    "yoursecret",
    "secret-key",
    "example",
    "django-insecure",
    "placeholder",
    "password",
    "256-bit-secret",
    "0123456789",
];

pub(super) struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    limits: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, problems: Vec::new(), limits: Vec::new() }
    }

    /// An empty variable counts as unset: compose files pass `X=${X:-}`.
    fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub fn problem(&mut self, variable: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.problems.push(Problem { variable: variable.to_owned(), wrong: wrong.into(), right: right.into() });
    }

    /// Reports each variable whose value is an earlier one's.
    pub fn all_differ(&mut self, variables: &[(&str, &String)]) {
        for (place, (variable, value)) in variables.iter().enumerate() {
            if let Some((other, _)) = variables[..place].iter().find(|(_, earlier)| earlier == value) {
                self.problem(variable, format!("is the same as {other}: one would get what is the other's"), "another name");
            }
        }
    }

    pub fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.problems.is_empty() { Ok(value) } else { Err(Problems(self.problems)) }
    }

    pub fn text(&mut self, name: &str, default: &str) -> String {
        let value = self.get(name).unwrap_or_else(|| default.to_owned());
        if value.len() > 255 || value.chars().any(char::is_control) {
            self.problem(name, "is longer than 255 bytes or has control characters", default);
        }
        value
    }

    pub fn optional_text(&mut self, name: &str) -> Option<String> {
        self.get(name)?;
        Some(self.text(name, ""))
    }

    pub fn url(&mut self, name: &str, schemes: &[&str], example: &str) -> SecretString {
        if self.get(name).is_none() {
            self.not_set(name, example);
        }
        self.optional_url(name, schemes, example).unwrap_or_default()
    }

    pub fn optional_url(&mut self, name: &str, schemes: &[&str], example: &str) -> Option<SecretString> {
        let value = self.get(name)?;
        match url::Url::parse(&value) {
            Ok(url) if schemes.contains(&url.scheme()) => {}
            Ok(_) => self.problem(name, format!("is no {} address", schemes[0]), example),
            Err(error) => self.problem(name, format!("is no address ({error})"), example),
        }
        Some(value.into())
    }

    pub fn number<T: FromStr + PartialOrd + fmt::Display>(&mut self, name: &str, default: T, range: RangeInclusive<T>) -> T {
        self.optional_number(name, range).unwrap_or(default)
    }

    pub fn optional_number<T: FromStr + PartialOrd + fmt::Display>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T> {
        let value = self.get(name)?;
        let parsed = value.parse().ok().filter(|number| range.contains(number));
        if parsed.is_none() {
            self.problem(name, "is no whole number in its range", format!("{} to {}", range.start(), range.end()));
        }
        parsed
    }

    pub fn seconds(&mut self, name: &str, default: Duration, range: RangeInclusive<u64>) -> Duration {
        self.optional_number(name, range).map_or(default, Duration::from_secs)
    }

    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(value) = self.get(name) else { return default };
        match choices.iter().find(|(text, _)| text.eq_ignore_ascii_case(&value)) {
            Some((_, choice)) => *choice,
            None => {
                self.problem(name, "is none of its choices", choices.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(" or "));
                default
            }
        }
    }

    pub fn not_set(&mut self, name: &str, right: &str) {
        self.problem(name, "is not set", right);
    }

    pub fn optional_secret(&mut self, name: &str) -> Option<SecretString> {
        let value = self.get(name)?;
        let first = value.bytes().next();
        let lower = value.to_lowercase();
        if value.len() < 32 {
            self.problem(name, format!("is {} bytes long, which can be guessed", value.len()), SECRET_EXAMPLE);
        } else if value.bytes().all(|byte| Some(byte) == first) {
            self.problem(name, "repeats one character", SECRET_EXAMPLE);
        } else if SAMPLES.iter().any(|sample| lower.contains(sample)) {
            self.problem(name, "is a sample secret, which everybody knows", SECRET_EXAMPLE);
        }
        Some(value.into())
    }

    pub fn origins(&mut self, name: &str) -> Vec<String> {
        let origins: Vec<_> = self
            .get(name)
            .unwrap_or_default()
            .split(',')
            .map(|origin| origin.trim().to_owned())
            .filter(|origin| !origin.is_empty())
            .collect();
        for origin in &origins {
            let exact = url::Url::parse(origin)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == *origin);
            if !exact {
                self.problem(
                    name,
                    format!("has '{origin}', which is no exact origin"),
                    "https://app.example.com,https://admin.example.com",
                );
            }
        }
        origins
    }

    pub fn limit(&mut self, name: &'static str, count: u32, seconds: u64) -> Limit {
        let usual = Rate { count, window: Duration::from_secs(seconds) };
        self.limit_or(name, Some(usual), usual)
    }

    /// A limit that is off unless it is set, with an example.
    pub fn limit_off(&mut self, name: &'static str, count: u32, seconds: u64) -> Limit {
        self.limit_or(name, None, Rate { count, window: Duration::from_secs(seconds) })
    }

    fn limit_or(&mut self, name: &'static str, default: Limit, example: Rate) -> Limit {
        self.limits.push(name);
        let Some(value) = self.get(name) else { return default };
        if value.eq_ignore_ascii_case("off") {
            return None;
        }
        let parsed = value.split_once('/').and_then(|(count, seconds)| {
            let rate = Rate { count: count.parse().ok()?, window: Duration::from_secs(seconds.parse().ok()?) };
            (rate.count > 0 && (1..=86_400).contains(&rate.window.as_secs())).then_some(rate)
        });
        if parsed.is_none() {
            let example = format!("{}/{} (so often in so many seconds, 1 to 86400), or off", example.count, example.window.as_secs());
            self.problem(name, "is no limit", example);
        }
        parsed.or(default)
    }

    /// A mistyped limit would silently be no limit.
    pub fn refuse_unknown_limits(&mut self, names: &[String]) {
        for name in
            names.iter().filter(|name| name.starts_with("LIMIT_") && !self.limits.contains(&name.as_str())).cloned().collect::<Vec<_>>()
        {
            self.problem(&name, "is no limit of this service", self.limits.join(", "));
        }
    }

    pub fn service_keys(&mut self, name: &str) -> Vec<ServiceKey> {
        let value = self.get(name).unwrap_or_default();
        let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let mut keys: Vec<ServiceKey> = Vec::new();
        for (index, entry) in entries.enumerate() {
            match service_key(entry) {
                Ok(key) if keys.iter().filter(|other| other.name == key.name).count() == 2 => {
                    self.problem(name, format!("has more than two keys for '{}'", key.name), "one key a name, two while it is replaced");
                }
                Ok(key) => keys.push(key),
                Err(wrong) => self.problem(
                    name,
                    format!("entry {} {wrong}", index + 1),
                    "name:hex-sha256-of-key:scope+scope, as `user-service keys service NAME` prints it",
                ),
            }
        }
        keys
    }

    pub fn filter(&mut self, name: &str, default: &str) -> String {
        let value = self.get(name).unwrap_or_else(|| default.to_owned());
        if tracing_subscriber::EnvFilter::try_new(&value).is_err() {
            self.problem(name, "is no log filter", default);
        }
        value
    }
}

const SECRET_EXAMPLE: &str = "32 or more random bytes, e.g. the output of `openssl rand -base64 48`";

fn service_key(entry: &str) -> Result<ServiceKey, String> {
    let mut parts = entry.splitn(3, ':');
    let (Some(name), Some(hash), Some(scopes)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("has not three parts".to_owned());
    };
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err("has a name that is not 1 to 64 letters, digits, '-', '_' or '.'".to_owned());
    }
    let mut sha256 = [0; 32];
    if hash.len() != 64 || !hash.is_ascii() {
        return Err("has no SHA-256 in hexadecimal as its second part".to_owned());
    }
    for (byte, digits) in sha256.iter_mut().zip(hash.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).map_err(|error| format!("has no SHA-256 in hexadecimal as its second part ({error})"))?;
    }
    let scopes = scopes
        .split('+')
        .map(|text| Scope::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or(text))
        .collect::<Result<Vec<_>, _>>();
    let scopes = scopes.map_err(|text| {
        format!("has the scope '{text}', which is none of {}", Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", "))
    })?;
    Ok(ServiceKey { name: name.to_owned(), sha256, scopes })
}
