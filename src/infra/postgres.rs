//! Opens one PostgreSQL connection, plain or over TLS, with the session's limits set.
//!
//! tokio-postgres does not know `sslmode=verify-full` nor `sslrootcert`, which every deployment guide names, so both are
//! taken out of the address here.

use std::sync::Arc;
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

/// For the socket, the handshake and the session's limits together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// What every session starts with. A dropped query goes on in the server, so each has an end there too.
const SESSION_LIMITS: &str =
    "SET statement_timeout = '1s'; SET lock_timeout = '500ms'; SET idle_in_transaction_session_timeout = '15s'; SET TIME ZONE 'UTC'";

/// Connects; the returned connection's driver runs on the runtime that polls this.
pub async fn connect(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let address = Address::parse(url)?;
    let limit = address.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    // tokio-postgres counts the socket only: a server that accepts and says nothing would be waited for.
    tokio::time::timeout(limit, open(address)).await.map_err(bad)?
}

async fn open(address: Address) -> ConnectionResult<AsyncPgConnection> {
    let mut connection = if address.tls {
        let connector = MakeRustlsConnect::new(tls_config(address.root_certificate.as_deref())?);
        let (client, connection) = address.config.connect(connector).await.map_err(bad)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await?
    } else {
        let (client, connection) = address.config.connect(NoTls).await.map_err(bad)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await?
    };
    connection.batch_execute(SESSION_LIMITS).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

struct Address {
    config: tokio_postgres::Config,
    tls: bool,
    root_certificate: Option<String>,
}

impl Address {
    fn parse(url: &str) -> ConnectionResult<Self> {
        let mut url = url::Url::parse(url).map_err(|error| ConnectionError::InvalidConnectionUrl(error.to_string()))?;
        let (mut mode, mut root_certificate, mut kept) = (String::new(), None, Vec::new());
        for (name, value) in url.query_pairs().into_owned() {
            match name.as_str() {
                "sslmode" => mode = value,
                "sslrootcert" => root_certificate = Some(value),
                _ => kept.push((name, value)),
            }
        }
        url.set_query(None);
        if !kept.is_empty() {
            // tokio-postgres decodes %XX but not '+', which is how query_pairs_mut writes a space.
            let query: Vec<_> = kept
                .iter()
                .map(|(name, value)| format!("{name}={}", value.replace('%', "%25").replace(' ', "%20").replace('&', "%26")))
                .collect();
            url.set_query(Some(&query.join("&")));
        }
        let tls = match mode.as_str() {
            "" | "disable" | "allow" | "prefer" => false,
            "require" | "verify-ca" | "verify-full" => true,
            other => return Err(ConnectionError::InvalidConnectionUrl(format!("unknown sslmode '{other}'"))),
        };
        let mut config: tokio_postgres::Config = url.as_str().parse().map_err(bad)?;
        if config.get_application_name().is_none() {
            config.application_name("user-service");
        }
        if tls {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
        }
        Ok(Self { config, tls, root_certificate })
    }
}

/// `require` verifies as well: an unverified TLS connection protects from nobody who can redirect it.
fn tls_config(root_certificate: Option<&str>) -> ConnectionResult<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    match root_certificate {
        Some(path) => {
            use rustls::pki_types::pem::PemObject as _;
            for certificate in rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(bad)? {
                roots.add(certificate.map_err(bad)?).map_err(bad)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(bad)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn bad(error: impl std::error::Error) -> ConnectionError {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    ConnectionError::BadConnection(text)
}

/// PostgreSQL as it says itself.
#[derive(Debug, diesel::QueryableByName)]
pub struct Server {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub version: String,
    #[diesel(sql_type = diesel::sql_types::Timestamptz)]
    pub now: chrono::DateTime<chrono::Utc>,
    /// The language of its errors.
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub lc_messages: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_read_here_and_the_rest_is_kept() {
        let address = Address::parse("postgres://u:p%40ss@h:5433/db?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x").unwrap();
        assert!(address.tls);
        assert_eq!(address.root_certificate.as_deref(), Some("/ca.pem"));
        assert_eq!(address.config.get_application_name(), Some("x"));
        assert_eq!(address.config.get_password(), Some(b"p@ss".as_slice()));
        assert!(!Address::parse("postgres://u@h/db").unwrap().tls);
        assert!(Address::parse("postgres://u@h/db?sslmode=sometimes").is_err());
    }
}
