//! Which of the process's ports a request came in by, and what is open there.

use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest, dev::Payload};

use crate::error::{Code, Error, Result};

/// The ports beside the public one, as they were bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doors {
    pub internal: Option<u16>,
    pub metrics: Option<u16>,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The only one, for everybody.
    Common,
    /// For people and their apps; services have another.
    Public,
    Internal,
    Metrics,
}

impl Door {
    pub fn of(request: &HttpRequest) -> Self {
        Doors::of(request).at(request.app_config().local_addr().port())
    }

    /// Whether services, aliases and admin pages are here.
    pub fn is_inner(self) -> bool {
        matches!(self, Door::Common | Door::Internal)
    }
}

impl Doors {
    pub fn of(request: &HttpRequest) -> Self {
        request.app_data::<Data<Self>>().map(|doors| *doors.get_ref()).unwrap_or_default()
    }

    pub fn at(self, port: u16) -> Door {
        if self.metrics == Some(port) {
            Door::Metrics
        } else if self.internal == Some(port) {
            Door::Internal
        } else if self.internal.is_some() {
            Door::Public
        } else {
            Door::Common
        }
    }

    /// Whether the metrics are here.
    pub fn show_metrics(self, door: Door) -> bool {
        if self.metrics.is_some() { door == Door::Metrics } else { door.is_inner() }
    }
}

/// What a handler takes that is not there at the public door.
#[derive(Debug)]
pub struct Inner;

impl FromRequest for Inner {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(if Door::of(request).is_inner() { Ok(Self) } else { Err(nothing_here()) })
    }
}

pub fn nothing_here() -> Error {
    Code::NotFound.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_opens_what_is_its_own() {
        let alone = Doors::default();
        assert!(alone.at(8000).is_inner() && alone.show_metrics(alone.at(8000)));
        let inner = Doors { internal: Some(8001), metrics: None };
        assert_eq!((inner.at(8000), inner.at(8001)), (Door::Public, Door::Internal));
        assert!(!inner.show_metrics(Door::Public) && inner.show_metrics(Door::Internal));
        let all = Doors { internal: Some(8001), metrics: Some(9000) };
        assert!(!all.show_metrics(Door::Internal) && all.show_metrics(all.at(9000)));
        let watched = Doors { internal: None, metrics: Some(9000) };
        assert!(watched.at(8000).is_inner() && !watched.show_metrics(Door::Common));
    }
}
