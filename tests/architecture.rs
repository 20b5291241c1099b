//! The house's rules, checked on the source: which floor may name which, and what each kind of file may contain.
//!
//! A broken rule is a failure that names file and line. Tests inside the files are not looked at.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

const FEATURES: [&str; 9] = ["admin", "directory", "preferences", "push_tokens", "passwords", "sessions", "addresses", "users", "push"];

/// Imports go down only, and within a floor never sideways except where [`FEATURE_EDGES`] says so.
fn floor(module: &str) -> u32 {
    match module {
        "error" | "config" => 0,
        "infra" => 1,
        "app" => 2,
        "card" => 3,
        "access" => 4,
        "http" | "amqp" => 5,
        feature if FEATURES.contains(&feature) => 6,
        "role" => 7,
        "cli" => 8,
        "lib" | "main" => 9,
        other => panic!("src/{other} stands on no floor: add it here and in the map of lib.rs"),
    }
}

/// Who among the features may name whom.
const FEATURE_EDGES: [(&str, &[&str]); 6] = [
    ("admin", &["directory", "preferences", "push_tokens", "passwords", "sessions", "addresses", "users", "push"]),
    ("passwords", &["push_tokens"]),
    ("sessions", &["passwords", "push_tokens"]),
    ("addresses", &["passwords"]),
    ("users", &["passwords", "sessions", "addresses", "preferences", "push_tokens"]),
    ("push", &["push_tokens"]),
];

/// The only files that may derive `Serialize`, `Deserialize` or `JsonSchema`: wire types, messages, claims, cached values.
const SERIALISED: [&str; 7] =
    ["infra/mailer.rs", "card/mod.rs", "access/mod.rs", "infra/access_token.rs", "push/delivery.rs", "push/message.rs", "http/"];

struct Source {
    /// Relative to src/.
    path: PathBuf,
    file: syn::File,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Its name without `.rs`; a folder of pages is one door.
    fn kind(&self) -> String {
        let in_pages = self.path.parent().is_some_and(|folder| folder.ends_with("pages"));
        if in_pages { "pages".to_owned() } else { self.path.file_stem().unwrap().to_str().unwrap().to_owned() }
    }

    /// The top-level module a file belongs to.
    fn module(&self) -> String {
        self.path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&std::fs::read_to_string(&path).unwrap()).expect("src does not parse");
                sources.push(Source { path: path.strip_prefix(&root).unwrap().to_owned(), file });
            }
        }
    }
    assert!(sources.len() > 40, "src was not found");
    sources
}

/// Every path that a file names, as segments with a line, outside its tests.
#[derive(Default)]
struct Paths(Vec<(usize, Vec<String>)>);

impl Paths {
    fn of(file: &syn::File) -> Vec<(usize, Vec<String>)> {
        let mut paths = Self::default();
        paths.visit_file(file);
        paths.0
    }

    fn walk(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let extended = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.walk(&extended(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.walk(prefix, tree)),
            syn::UseTree::Name(name) => self.0.push((name.ident.span().start().line, extended(&name.ident))),
            syn::UseTree::Rename(name) => self.0.push((name.ident.span().start().line, extended(&name.ident))),
            syn::UseTree::Glob(glob) => self.0.push((glob.star_token.spans[0].start().line, prefix.to_vec())),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string().contains("test"))
    })
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_test(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.walk(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.0.push((path.segments[0].ident.span().start().line, segments));
        syn::visit::visit_path(self, path);
    }
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn imports_go_down_only() {
    let mut broken = Vec::new();
    for source in sources() {
        let from = source.module();
        for (line, path) in Paths::of(&source.file) {
            let [first, to, rest @ ..] = path.as_slice() else { continue };
            let at = format!("src/{}:{line}", source.name());
            if (first != "crate" && first != "user_service") || *to == from || to.starts_with(char::is_uppercase) {
                continue;
            }
            let allowed = FEATURE_EDGES.iter().any(|(feature, others)| *feature == from && others.contains(&to.as_str()));
            if floor(to) > floor(&from) || (floor(to) == floor(&from) && !allowed && floor(to) != 0) {
                broken.push(format!("{at}: {from} names {to}, which stands beside or above it"));
            }
            let door = rest.first().is_some_and(|inner| ["store", "http", "pages", "amqp"].contains(&inner.as_str()));
            if door && FEATURES.contains(&to.as_str()) && FEATURES.contains(&from.as_str()) {
                broken.push(format!("{at}: {from} reaches past {to}'s mod.rs"));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn operations_know_no_protocol_and_doors_no_sql() {
    const PROTOCOLS: [&str; 4] = ["actix_web", "actix_rt", "apistos", "lapin"];
    const SQL: [&str; 3] = ["diesel", "diesel_async", "tokio_postgres"];
    let mut broken = Vec::new();
    for source in sources() {
        let file = source.kind();
        let module = source.module();
        let feature = FEATURES.contains(&module.as_str()) || ["access", "card"].contains(&module.as_str());
        let forbidden: &[&str] = match file.as_str() {
            "http" | "pages" | "amqp" if feature => &SQL,
            _ if feature => &PROTOCOLS,
            _ if file.ends_with("_store") => continue,
            _ if module == "http" || module == "amqp" => &SQL,
            _ => continue,
        };
        for (line, path) in Paths::of(&source.file) {
            if forbidden.contains(&path[0].as_str()) {
                broken.push(format!("src/{}:{line}: names {}", source.name(), path.join("::")));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn stores_are_private_and_only_they_and_infra_run_sql() {
    let mut broken = Vec::new();
    for source in sources() {
        for item in &source.file.items {
            if let syn::Item::Mod(module) = item
                && module.ident == "store"
                && !matches!(module.vis, syn::Visibility::Inherited)
            {
                broken.push(format!("src/{}:{}: mod store must be private", source.name(), module.ident.span().start().line));
            }
        }
        let (file, module) = (source.path.file_stem().unwrap().to_str().unwrap(), source.module());
        if file == "store" || file.ends_with("_store") || module == "infra" || module == "error" {
            continue;
        }
        for (line, path) in Paths::of(&source.file) {
            if path.first().is_some_and(|name| name == "diesel")
                || path.contains(&"schema".to_owned()) && path.contains(&"infra".to_owned())
            {
                broken.push(format!("src/{}:{line}: SQL belongs into store.rs", source.name()));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn only_wire_types_messages_claims_and_cached_values_are_serialised() {
    struct Derives(Vec<usize>);
    impl<'a> Visit<'a> for Derives {
        fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
            if !is_test(&module.attrs) {
                syn::visit::visit_item_mod(self, module);
            }
        }

        fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
            let syn::Meta::List(list) = &attribute.meta else { return };
            let tokens = list.tokens.to_string();
            if attribute.path().is_ident("derive") && ["Serialize", "Deserialize", "JsonSchema"].iter().any(|name| tokens.contains(name)) {
                self.0.push(list.path.segments[0].ident.span().start().line);
            }
        }
    }
    let mut broken = Vec::new();
    for source in sources() {
        let name = source.name();
        if name.ends_with("/http.rs") || source.kind() == "pages" || SERIALISED.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let mut derives = Derives(Vec::new());
        derives.visit_file(&source.file);
        broken.extend(derives.0.iter().map(|line| format!("src/{name}:{line}: this is no wire type, message, claim or cached value")));
    }
    assert_none(&broken);
}

#[test]
fn only_the_worker_opens_amqp_connections() {
    let mut broken = Vec::new();
    for source in sources() {
        if ["infra/broker.rs", "amqp/consumer.rs", "amqp/publisher.rs", "cli/doctor.rs"].contains(&source.name().as_str()) {
            continue;
        }
        for (line, path) in Paths::of(&source.file) {
            if path.ends_with(&["broker".to_owned(), "connect".to_owned()]) {
                broken.push(format!("src/{}:{line}: only consumer and publisher connect", source.name()));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn files_stay_small_enough_to_read() {
    let mut broken = Vec::new();
    for source in sources() {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&source.path)).unwrap();
        let lines = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).count();
        if lines > 300 && source.name() != "infra/schema.rs" {
            broken.push(format!("src/{}: {lines} lines without its tests; 300 at most", source.name()));
        }
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("//!") && source.name() != "infra/schema.rs" {
            broken.push(format!("src/{}:1: opens with no //! sentence", source.name()));
        }
    }
    assert_none(&broken);
}

/// A chart or an alert on a metric that nobody counts is always quiet.
#[test]
fn what_is_watched_is_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut counted = Vec::new();
    for source in sources() {
        let text = std::fs::read_to_string(root.join("src").join(&source.path)).unwrap();
        for kind in ["counter!(", "gauge!(", "histogram!("] {
            counted.extend(text.split(kind).skip(1).filter_map(|rest| rest.trim_start().split('"').nth(1)).map(str::to_owned));
        }
    }
    let watched =
        ["deploy/prometheus/alerts.yaml", "deploy/grafana/user-service.json"].map(|path| std::fs::read_to_string(root.join(path)).unwrap());
    let mut seen = 0;
    for text in &watched {
        // Every selector names the job right after its metric.
        for before in text.split("{job=").collect::<Vec<_>>().split_last().unwrap().1 {
            let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(name == "up" || counted.iter().any(|counted| counted == name), "nobody counts {name}");
            seen += 1;
        }
    }
    assert!(seen > 30, "the files were not read: {seen}");
}

#[test]
fn every_variable_is_named_in_the_example_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join(".env.example")).unwrap();
    let named: Vec<&str> = example.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let mut missing = Vec::new();
    for line in example.lines().filter(|line| !line.starts_with('#')) {
        // systemd and docker take the rest of a line for the value; a shell takes what stands behind a space for a command.
        let value = line.split_once('=').map_or("", |(_, value)| value);
        if value.contains(" #") || (value.contains(' ') && !value.starts_with('"')) {
            missing.push(format!(".env.example: {line} is read in different ways"));
        }
    }
    let mut found = 0;
    for file in ["src/config.rs", "src/config/broker.rs", "src/config/identity.rs", "src/config/mail.rs"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for literal in code.split('"').skip(1).step_by(2) {
            let variable = literal.len() >= 4 && literal.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            if variable {
                found += 1;
                if !named.contains(&literal) {
                    missing.push(format!("{file}: {literal} is not in .env.example"));
                }
            }
        }
    }
    assert!(found > 30, "the variables were not found");
    assert_none(&missing);
}

/// An image is built from what the Dockerfile copies out of what .dockerignore lets in; nobody builds one on each change.
#[test]
fn the_image_is_given_what_the_build_reads() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (dockerfile, ignored, manifest) = (read("Dockerfile"), read(".dockerignore"), read("Cargo.toml"));
    let copied: Vec<&str> = dockerfile
        .lines()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from"))
        .flat_map(|line| line.split_whitespace().skip(1))
        .collect();
    for needed in ["Cargo.toml", "Cargo.lock", "askama.toml", "migrations", "src"] {
        assert!(copied.contains(&needed), "the Dockerfile does not copy {needed}");
        assert!(ignored.lines().any(|line| line == format!("!{needed}")), ".dockerignore keeps {needed} out");
    }
    // Cargo refuses a manifest whose targets are not there.
    for target in manifest.lines().filter_map(|line| line.strip_prefix("path = \"")).map(|path| path.trim_end_matches('"')) {
        assert!(dockerfile.contains(target), "the Dockerfile makes no empty {target}");
    }
}

/// Whoever is woken by an alert finds its name as a heading.
#[test]
fn every_alert_has_its_place_in_the_runbook_and_every_place_its_alert() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (rules, runbook) = (read("deploy/prometheus/alerts.yaml"), read("docs/operations.md"));
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let places: BTreeSet<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).filter(|line| line.starts_with("UserService")).collect();
    assert!(alerts.len() >= 12);
    assert_eq!(alerts, places);
}
