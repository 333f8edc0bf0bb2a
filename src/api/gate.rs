//! What every call passes: who is it, may they, how often, and for the record.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tidegate_wire::DeviceId;

use super::{
    Api, Kind, Problem,
    keys::{ApiKey, Scope},
    limits::{Allowance, Buckets, network},
};
use crate::{clock::UnixMillis, store::audit::Entry};

/// Refused calls without a valid key that one address may make: enough for a person who mistypes, too
/// few to be worth anyone's while.
const STRANGER: Allowance = Allowance {
    per_second: 1,
    burst: 10,
};
/// Such calls from all addresses together that are put on record. What is beyond is answered all the
/// same.
const STRANGERS_ON_RECORD: Allowance = Allowance {
    per_second: 5,
    burst: 100,
};
/// Addresses and keys remembered.
const MOST_CALLERS: usize = 4_096;
/// A key's reads and refusals that are alike are put on record once in this time: polling would fill
/// the record and push out what matters.
const ALIKE: Duration = Duration::from_secs(600);

/// The address a request came from; the listener puts it into every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a handler adds to the record.
#[derive(Clone, Debug)]
pub(super) struct Detail(pub(super) String);

/// The state of the limits.
#[derive(Debug)]
pub(super) struct Gate {
    strangers: Mutex<Buckets<IpAddr>>,
    strangers_on_record: Mutex<Buckets<()>>,
    keys: Mutex<Buckets<String>>,
    alike: Mutex<HashMap<(String, &'static str, StatusCode), Instant>>,
}

/// A call to a known route.
struct Call<'a> {
    action: &'static str,
    scope: Scope,
    /// The device.
    device: Option<&'a str>,
    /// The path after the route's name, for the record.
    target: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// What is asked for; `None` if there is no such call.
    fn of(method: &Method, path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.splitn(3, '/');
        let parts = (parts.next()?, parts.next(), parts.next());
        let (action, scope, device) = match (method.as_str(), parts) {
            ("POST", ("command", Some(id), None)) => ("command.send", Scope::CommandSend, Some(id)),
            ("GET" | "HEAD", ("command", Some(id), None)) => {
                ("command.list", Scope::CommandRead, Some(id))
            }
            ("GET" | "HEAD", ("command", Some(id), Some(_))) => {
                ("command.read", Scope::CommandRead, Some(id))
            }
            ("GET" | "HEAD", ("devices", None, None)) => ("device.list", Scope::DeviceRead, None),
            ("GET" | "HEAD", ("devices", Some(id), None)) => {
                ("device.read", Scope::DeviceRead, Some(id))
            }
            ("GET" | "HEAD", ("status", None, None)) => ("status.read", Scope::StatusRead, None),
            ("GET" | "HEAD", ("metrics", None, None)) => ("metrics.read", Scope::MetricsRead, None),
            _ => return None,
        };
        let target = path.splitn(3, '/').nth(2);
        Some(Self {
            action,
            scope,
            device,
            target,
        })
    }
}

impl Gate {
    pub(super) fn new(requests_per_second: u32) -> Self {
        let key = Allowance {
            per_second: requests_per_second,
            burst: requests_per_second.saturating_mul(2),
        };
        Self {
            strangers: Mutex::new(Buckets::new(STRANGER, MOST_CALLERS)),
            strangers_on_record: Mutex::new(Buckets::new(STRANGERS_ON_RECORD, 1)),
            keys: Mutex::new(Buckets::new(key, MOST_CALLERS)),
            alike: Mutex::default(),
        }
    }

    /// Whether something like this was put on record a short while ago.
    fn is_alike(
        &self,
        actor: &str,
        action: &'static str,
        status: StatusCode,
        now: Instant,
    ) -> bool {
        let mut alike = self.alike.lock().unwrap_or_else(PoisonError::into_inner);
        let what = (actor.to_owned(), action, status);
        if alike
            .get(&what)
            .is_some_and(|last| now.duration_since(*last) < ALIKE)
        {
            return true;
        }
        if alike.len() >= MOST_CALLERS {
            alike.retain(|_, last| now.duration_since(*last) < ALIKE);
        }
        if alike.len() < MOST_CALLERS {
            alike.insert(what, now);
        }
        false
    }
}

/// Lets a call through to its handler, with its [`ApiKey`] in the request's extensions, or refuses it.
pub(super) async fn pass(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    // Nothing gets past without being known here, whatever the router makes of it.
    let Some(call) = Call::of(request.method(), &path) else {
        return Problem::new(Kind::NotFound, "there is no such call").into_response();
    };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let (now, instant) = (api.clock.unchecked_now(), Instant::now());

    let key = match authenticate(&api, &request, now) {
        Ok(key) => key,
        Err((problem, why)) => return refuse_stranger(&api, &call, peer, problem, why, instant),
    };
    let actor = key.actor();
    let mut response = match permit(&api, &call, &key, instant) {
        Ok(()) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };

    let status = response.status();
    let detail = response
        .extensions_mut()
        .remove::<Detail>()
        .map(|detail| detail.0);
    let changed = call.action == "command.send" && status.is_success();
    let entry = Entry {
        at: now,
        actor,
        peer: peer.map(|peer| peer.to_string()),
        action: call.action.to_owned(),
        target: call.target.map(str::to_owned),
        result: status.as_u16().to_string(),
        detail,
    };
    if changed {
        api.audit.record(entry).await;
    } else if !api
        .gate
        .is_alike(&entry.actor, call.action, status, instant)
    {
        api.audit.offer(entry);
    }
    response
}

fn authenticate(
    api: &Api,
    request: &Request,
    now: UnixMillis,
) -> Result<Arc<ApiKey>, (Problem, &'static str)> {
    let refused = |detail: &str, why| (Problem::new(Kind::Unauthenticated, detail), why);
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(refused(
            "send one header `Authorization: Bearer <token>`; `tidegate key create` makes a token",
            "no token",
        ));
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(refused(
            "the Authorization header must read `Bearer <token>`",
            "not a bearer token",
        ));
    };
    // One answer, whichever it is: a stranger learns nothing about keys.
    api.keys.verify(token.trim(), now).map_err(|refusal| {
        refused(
            "this token is not valid: it may be mistyped, expired or revoked",
            refusal.as_str(),
        )
    })
}

fn permit(api: &Api, call: &Call<'_>, key: &ApiKey, now: Instant) -> Result<(), Problem> {
    let taken = api
        .gate
        .keys
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(key.id.clone(), now);
    if let Err(wait) = taken {
        return Err(Problem::new(
            Kind::TooManyRequests,
            "this key calls too often; wait and try again",
        )
        .retry_after(wait.as_secs() + 1));
    }
    if !key.allows(call.scope) {
        let detail = format!("this needs a key with the scope `{}`", call.scope.as_str());
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    // Before the device is looked for: a key learns nothing of devices it is not for.
    if let Some(id) = call.device
        && !reaches(api, key, id)
    {
        return Err(Problem::new(
            Kind::Forbidden,
            "this key is not for that device",
        ));
    }
    Ok(())
}

fn reaches(api: &Api, key: &ApiKey, id: &str) -> bool {
    let Ok(id) = DeviceId::try_from(id) else {
        return key.devices.is_none();
    };
    match api.registry.get(&id) {
        Some(device) => key.reaches(&device),
        None => key.reaches_id(&id),
    }
}

fn refuse_stranger(
    api: &Api,
    call: &Call<'_>,
    peer: Option<IpAddr>,
    problem: Problem,
    why: &str,
    now: Instant,
) -> Response {
    if let Some(peer) = peer {
        let taken = api
            .gate
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(network(peer), now);
        if let Err(wait) = taken {
            return Problem::new(
                Kind::TooManyRequests,
                "too many calls without a valid token; wait and try again",
            )
            .retry_after(wait.as_secs() + 1)
            .into_response();
        }
    }
    let recorded = api
        .gate
        .strangers_on_record
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take((), now);
    if recorded.is_ok() {
        api.audit.offer(Entry {
            at: api.clock.unchecked_now(),
            actor: "anonymous".to_owned(),
            peer: peer.map(|peer| peer.to_string()),
            action: call.action.to_owned(),
            target: call.target.map(str::to_owned),
            result: problem.status().as_u16().to_string(),
            detail: Some(why.to_owned()),
        });
    }
    problem.into_response()
}
