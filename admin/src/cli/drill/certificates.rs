//! cert-rotate and ca-rotate: members change what they prove themselves with while canaries write.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::run::{Abort, Run};
use crate::cluster::certificates::{Certificates, Renewed};

/// Between two looks at what the members show.
const LOOK: Duration = Duration::from_millis(200);
/// A member tells the others within a second what it shows.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// Connections of the old certificate end by themselves within half a minute; what is under way must not suffer.
const LINGER: Duration = Duration::from_secs(35);

/// Every member renews, one after the other.
pub async fn renew(run: &mut Run<'_>, repeat: u32) -> Result<(), Abort> {
    let since = run.diary.now();
    for target in 0..run.names.len() {
        let name = run.names[target].clone();
        let asked = run.diary.now();
        run.injected(target, repeat, "it takes a new certificate");
        let wish = json!({ "member": name });
        let renewed: Renewed = run.stage.desk.post("/api/v1/cluster/certificates/renew", wish).await?;
        let shows = |all: &Certificates| {
            all.members.iter().any(|member| member.name == name && member.serial == renewed.serial)
        };
        if !until(run, SHOWN_WITHIN, shows).await? {
            return Err(Abort(format!("{name} does not show its new certificate {}", renewed.serial)));
        }
        let took = (run.diary.now() - asked) / 1000;
        run.watch.note("recovered", format!("{name} shows {} after {took} ms", renewed.serial));
        run.value("renewal", "ms", took);
    }
    settle(run, since).await
}

/// The authority is replaced; over when nobody believes the old one any more.
pub async fn rotate(run: &mut Run<'_>, repeat: u32) -> Result<(), Abort> {
    let before: Certificates = run.stage.desk.get("/api/v1/cluster/certificates").await?;
    if before.rotation.is_some() {
        return Err(Abort("the authority is being replaced already: hsraft cert status".into()));
    }
    let old: Vec<String> = before.authorities.iter().map(|one| one.fingerprint.clone()).collect();
    let since = run.diary.now();
    run.watch.note("injected", format!("#{repeat} the members' authority is replaced"));
    (0..run.names.len()).for_each(|target| run.target(target));
    run.stage.desk.post::<Certificates>("/api/v1/cluster/certificates/rotate", json!({})).await?;
    let members = run.names.len();
    let over = move |all: &Certificates| {
        let moved = |issuer: &str| !issuer.is_empty() && !old.iter().any(|old| old == issuer);
        all.rotation.is_none() && all.members.iter().filter(|member| moved(&member.issuer)).count() == members
    };
    if !until(run, run.settings.patience, over).await? {
        let now: Certificates = run.stage.desk.get("/api/v1/cluster/certificates").await?;
        let waiting = now.rotation.map(|rotation| rotation.waiting_for.join(", ")).unwrap_or_default();
        return Err(Abort(format!("the new authority has not arrived everywhere; it waits for: {waiting}")));
    }
    let took = (run.diary.now() - since) / 1000;
    run.output.talk(&format!("  every member shows a certificate of the new authority after {took} ms"));
    run.watch.note("recovered", format!("every member shows a certificate of the new authority after {took} ms"));
    run.value("rotation", "ms", took);
    settle(run, since).await
}

/// Looks until it is so, under watch; false when time is up.
async fn until(run: &Run<'_>, within: Duration, so: impl Fn(&Certificates) -> bool) -> Result<bool, Abort> {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if so(&run.stage.desk.get("/api/v1/cluster/certificates").await?) {
            return Ok(true);
        }
        run.rest(LOOK, None).await?;
    }
    Ok(false)
}

/// Until the old connections are gone as well; then the figures of all of it.
async fn settle(run: &mut Run<'_>, since: u64) -> Result<(), Abort> {
    run.rest(LINGER, None).await?;
    let to = run.diary.now();
    run.outcome(since, to, usize::MAX);
    Ok(())
}
