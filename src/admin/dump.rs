//! Reads tables out of a dump that `pg_dump` wrote as text: the blocks `COPY … FROM stdin`.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context as _, bail};

/// A row: its columns by name, as text; `None` is NULL.
pub type Row = BTreeMap<String, Option<String>>;

/// The rows of these tables, whatever their schema; tables that are not in the dump are not in the answer.
pub fn read(dump: impl BufRead, tables: &[&str]) -> anyhow::Result<BTreeMap<String, Vec<Row>>> {
    let mut found: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut copying: Option<(String, Vec<String>)> = None;
    for (number, line) in dump.split(b'\n').enumerate() {
        let line = String::from_utf8(line?).with_context(|| format!("line {} is not UTF-8; is it a dump in text form?", number + 1))?;
        let line = line.strip_suffix('\r').unwrap_or(&line);
        if number == 0 && line.starts_with("PGDMP") {
            bail!("the dump is in pg_dump's custom form; make text of it: pg_restore --file=dump.sql FILE");
        }
        match &copying {
            None => copying = header(line).filter(|(table, _)| tables.contains(&table.as_str())),
            Some(_) if line == "\\." => copying = None,
            Some((table, columns)) => {
                let values: Vec<_> = line.split('\t').map(value).collect();
                if values.len() != columns.len() {
                    bail!("line {} has {} values for {} columns", number + 1, values.len(), columns.len());
                }
                found.entry(table.clone()).or_default().push(columns.iter().cloned().zip(values).collect());
            }
        }
    }
    if copying.is_some() {
        bail!("the dump ends in the middle of a table");
    }
    Ok(found)
}

/// `COPY public.users (id, email) FROM stdin;`
fn header(line: &str) -> Option<(String, Vec<String>)> {
    let (table, rest) = line.strip_prefix("COPY ")?.split_once(" (")?;
    let columns = rest.strip_suffix(") FROM stdin;")?;
    let name = |text: &str| text.trim().trim_matches('"').to_owned();
    Some((name(table.rsplit('.').next()?), columns.split(',').map(name).collect()))
}

/// COPY's text form: `\N` is NULL, and a backslash escapes.
fn value(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        value.push(match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            (character, false) => character,
        });
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_with_their_columns_and_escapes() {
        let dump = "--\nSET x = 1;\nCOPY public.other (id) FROM stdin;\n7\n\\.\nCOPY public.users (id, \"name\", note) FROM stdin;\n\
                    1\ta\\tb\\\\c\\nd\t\\N\n2\t\t\\\\N\n\\.\nALTER TABLE x;\n";
        let found = read(dump.as_bytes(), &["users"]).unwrap();
        let users = &found["users"];
        assert_eq!((found.len(), users.len()), (1, 2));
        assert_eq!((users[0]["name"].as_deref(), &users[0]["note"]), (Some("a\tb\\c\nd"), &None));
        assert_eq!((users[1]["name"].as_deref(), users[1]["note"].as_deref()), (Some(""), Some("\\N")));
    }

    #[test]
    fn what_is_cut_or_no_text_is_refused() {
        let problem = |dump: &[u8]| read(dump, &["users"]).unwrap_err().to_string();
        assert!(problem(b"COPY users (id) FROM stdin;\n1\n").contains("ends in the middle"));
        assert!(problem(b"COPY users (id, name) FROM stdin;\n1\n\\.\n").contains("1 values for 2 columns"));
        assert!(problem(b"PGDMP\x01\n").contains("pg_restore"));
    }
}
