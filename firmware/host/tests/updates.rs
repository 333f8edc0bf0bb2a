//! Updates of a whole device on the host's board, against a gateway and an update server that can be
//! made to misbehave.
//!
//! Both speak real TLS. The device's flash is a folder, and it restarts into its new image as a chip
//! does; what an image does is in the image.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on stops"
)]

mod gateway;
mod release;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gateway::{Gateway, Link};
use release::{Release, Server, public, release_key, retired_key};
use serde_json::{Value, json};
use tidegate_app::update::Timing;
use tidegate_host::{
    Behaviour, Firmware, Kind, Simulation, Stop, Updating, Watcher, World, simulate_updating,
};
use tokio::task::LocalSet;

/// Of the usual size of a note (32 KiB) and more, and no multiple of a page.
const SIZE: usize = 90_001;

/// Nothing in these tests takes long, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

const NEVER: Duration = Duration::from_secs(100 * 3600);

/// Looks at once and then no more.
const ONCE: Timing = Timing {
    first: Duration::from_millis(50),
    interval: NEVER,
    trial: NEVER,
};

/// Looks only when it is told to.
const ON_COMMAND: Timing = Timing {
    first: NEVER,
    ..ONCE
};

/// One device, its gateway and its update server.
struct Story {
    gateway: Gateway,
    server: Rc<Server>,
    flash: tempfile::TempDir,
    keys: Vec<tidegate_wire::manifest::PublicKey>,
    /// Everything the device published on its event and ack topics.
    told: RefCell<Vec<Value>>,
    /// Commands to be sent.
    orders: RefCell<Vec<Value>>,
    ordered: tokio::sync::Notify,
}

impl Story {
    async fn new() -> Self {
        let gateway = Gateway::start().await;
        let server = Server::start(gateway.acceptor()).await;
        Self {
            gateway,
            server,
            flash: tempfile::tempdir().unwrap(),
            keys: vec![public(&release_key())],
            told: RefCell::default(),
            orders: RefCell::default(),
            ordered: tokio::sync::Notify::new(),
        }
    }

    fn simulation(&self) -> Simulation {
        let mut bundle = self.gateway.bundle("sensor_001");
        bundle.release_keys = self.keys.clone();
        bundle.update_port = Some(self.server.port());
        Simulation {
            bundle,
            kind: Kind::Gates,
            flash: Some(self.flash.path().into()),
            buffer_pages: 2,
            interval: Some(NEVER),
            gateway: None,
            watcher: Watcher::default(),
        }
    }

    /// Runs the device until the test is done with it; then its power is cut.
    async fn with_device(&self, timing: Timing, rolls_back: bool, test: impl AsyncFnOnce()) {
        let simulation = self.simulation();
        let updating = Updating { timing, rolls_back };
        let stop = Rc::<Stop>::default();
        let local = LocalSet::new();
        let all = local.run_until(async {
            tokio::select! {
                ended = simulate_updating(&simulation, &updating, World::new(), stop) => {
                    panic!("{ended:?}")
                }
                () = self.server.serve() => {}
                () = self.answer() => {}
                () = test() => {}
            }
        });
        tokio::time::timeout(PATIENCE, all)
            .await
            .unwrap_or_else(|_| panic!("the test comes to an end: {:?}", self.told.borrow()));
    }

    /// The gateway: lets the device in, acknowledges everything, passes commands on.
    async fn answer(&self) {
        loop {
            let Some(mut link) = self.gateway.try_accept(true).await else {
                continue;
            };
            self.serve(&mut link).await;
        }
    }

    async fn serve(&self, link: &mut Link) {
        loop {
            let orders = self.orders.take();
            for order in orders {
                let command = self.gateway.command("sensor_001", &order);
                link.send("command", &command).await;
            }
            tokio::select! {
                message = link.try_message() => {
                    let Some(message) = message else { return };
                    link.acknowledge(&message).await;
                    if message.channel != "data" {
                        self.told.borrow_mut().push(message.payload);
                    }
                }
                () = self.ordered.notified() => {}
            }
        }
    }

    fn order(&self, command: Value) {
        self.orders.borrow_mut().push(command);
        self.ordered.notify_one();
    }

    /// State, version and reason of each update event so far.
    fn updates(&self) -> Vec<String> {
        let told = self.told.borrow();
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        told.iter()
            .filter(|event| event["event"] == "update")
            .map(|event| {
                let [state, version, reason] =
                    ["state", "version", "reason"].map(|name| text(&event[name]));
                format!("{state} {version} {reason}").trim_end().to_owned()
            })
            .collect()
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let waiting = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.told.borrow()));
    }

    /// Waits for an update event.
    async fn until_told(&self, expected: &str) {
        self.until(expected, || {
            self.updates().iter().any(|event| event == expected)
        })
        .await;
    }

    fn boots(&self) -> Vec<Value> {
        let told = self.told.borrow();
        let boots = told.iter().filter(|event| event["event"] == "boot");
        boots.cloned().collect()
    }

    /// Bytes of the image that were sent, and whether none of them was sent twice.
    fn sent(&self) -> (usize, bool) {
        let mut parts = self.server.sent.borrow().clone();
        parts.sort_unstable();
        let once = parts.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        (parts.iter().map(|(from, to)| to - from).sum(), once)
    }
}

fn firmware(version: &str, behaviour: Behaviour) -> Firmware {
    Firmware {
        version: version.into(),
        security_version: 0,
        behaviour,
        only_on: None,
    }
}

fn release(behaviour: Behaviour) -> Release {
    Release::new("1.1.0", firmware("1.1.0", behaviour).image(SIZE))
}

/// What is in a slot.
fn slot(folder: &Path, index: u8) -> Vec<u8> {
    std::fs::read(folder.join(format!("ota_{index}.flash"))).unwrap()
}

#[tokio::test]
async fn an_update_is_fetched_started_and_confirmed() {
    for rolls_back in [false, true] {
        let story = Story::new().await;
        let release = release(Behaviour::Healthy);
        story.server.publish(&release);
        story
            .with_device(ONCE, rolls_back, async || {
                story.until_told("confirmed 1.1.0").await;
                // Once the server has nothing more, it is asked as the new version.
                story.server.offer.replace(None);
                story.order(json!({"action": "update"}));
                story
                    .until("another look", || {
                        story
                            .server
                            .queries
                            .borrow()
                            .last()
                            .unwrap()
                            .contains("1.1.0")
                    })
                    .await;
            })
            .await;
        let expected = [
            "offered 1.1.0",
            "downloading 1.1.0",
            "installed 1.1.0",
            "confirmed 1.1.0",
        ];
        assert_eq!(story.updates(), expected);
        let boots = story.boots();
        let fields = |name| {
            boots
                .iter()
                .map(|boot| boot[name].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(fields("version"), [env!("CARGO_PKG_VERSION"), "1.1.0"]);
        assert_eq!(fields("update"), ["confirmed", "trial"]);
        assert_eq!(fields("reason"), ["power_on", "software"]);
        assert_eq!(fields("product"), ["gates", "gates"]);
        assert_eq!(fields("chip"), ["host", "host"]);
        assert_eq!(fields("security_version"), [0, 0]);
        assert_eq!(story.sent(), (SIZE, true));
        assert_eq!(
            *story.server.queries.borrow(),
            [
                concat!(
                    "product=gates&chip=host&version=",
                    env!("CARGO_PKG_VERSION"),
                    "&security_version=0"
                ),
                "product=gates&chip=host&version=1.1.0&security_version=0",
            ]
        );
        // It outlasts the power, and is not told again.
        story
            .with_device(ON_COMMAND, rolls_back, async || {
                story
                    .until("a third start", || story.boots().len() == 3)
                    .await;
                story.order(json!({"action": "report"}));
                story
                    .until("health", || {
                        story
                            .told
                            .borrow()
                            .iter()
                            .any(|event| event["event"] == "health")
                    })
                    .await;
            })
            .await;
        let boot = &story.boots()[2];
        assert_eq!(
            (&boot["version"], &boot["update"]),
            (&json!("1.1.0"), &json!("confirmed"))
        );
        assert_eq!(story.updates().len(), 4);
    }
}

/// Each in turn: the device says why and stays what it was, and no image is asked for.
#[tokio::test]
async fn what_is_not_for_this_device_is_refused() {
    let good = release(Behaviour::Healthy);
    let key = release_key();
    let changed = |change: &dyn Fn(&mut Release)| {
        let mut release = good.clone();
        change(&mut release);
        release.signed(&key)
    };
    let mut forged = good.signed(&key);
    let at = forged.windows(7).position(|w| w == b"\"1.1.0\"").unwrap();
    forged[at + 1] = b'9';
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (forged, "failed 9.1.0 bad_signature"),
        (good.signed(&retired_key()), "failed 1.1.0 unknown_key"),
        (changed(&|r| r.chip = "esp32c3"), "failed 1.1.0 wrong_chip"),
        (
            changed(&|r| r.product = "climate"),
            "failed 1.1.0 wrong_product",
        ),
        (
            changed(&|r| r.expires = 1_700_000_000),
            "failed 1.1.0 expired",
        ),
        (changed(&|r| r.version = "0.0.9"), "failed 0.0.9 not_newer"),
        (
            changed(&|r| r.min_version = Some("1.0.0")),
            "failed 1.1.0 from_too_old",
        ),
        (
            changed(&|r| r.image = vec![0; 600_000]),
            "failed 1.1.0 too_large",
        ),
        (b"{\"manifest\":{}}".to_vec(), "failed  malformed"),
        (b"not a manifest".to_vec(), "failed  malformed"),
        (vec![b' '; 5000], ""),
    ];
    let story = Story::new().await;
    story
        .with_device(ON_COMMAND, true, async || {
            for (offer, expected) in cases {
                let asked = story.server.queries.borrow().len();
                let heard = story.updates().len();
                story.server.offer.replace(Some(offer));
                story.order(json!({"action": "update"}));
                story
                    .until("a look", || story.server.queries.borrow().len() > asked)
                    .await;
                if !expected.is_empty() {
                    story
                        .until(expected, || story.updates().len() > heard)
                        .await;
                    assert_eq!(story.updates().last().unwrap(), expected);
                }
            }
            // And then it takes what is good.
            story.server.publish(&good);
            story.order(json!({"action": "update"}));
            story.until_told("confirmed 1.1.0").await;
        })
        .await;
    assert_eq!(story.sent(), (SIZE, true), "nothing was fetched before");
}

#[tokio::test]
async fn a_security_version_never_goes_down() {
    let story = Story::new().await;
    let build = |version: &'static str, security_version, sequence| {
        let firmware = Firmware {
            security_version,
            ..firmware(version, Behaviour::Healthy)
        };
        Release {
            security_version,
            sequence,
            ..Release::new(version, firmware.image(9000))
        }
    };
    story
        .with_device(ON_COMMAND, true, async || {
            let update = async |release: Release, expected: &str| {
                story.server.publish(&release);
                story.order(json!({"action": "update"}));
                story.until_told(expected).await;
            };
            update(build("1.1.0", 2, 7), "confirmed 1.1.0").await;
            update(build("1.2.0", 1, 8), "failed 1.2.0 downgrade").await;
            // An old manifest is no news, even with a later version.
            update(build("1.3.0", 2, 7), "failed 1.3.0 not_newer").await;
            update(build("1.4.0", 2, 9), "confirmed 1.4.0").await;
        })
        .await;
    let queries = story.server.queries.borrow();
    assert!(
        queries
            .last()
            .unwrap()
            .ends_with("version=1.1.0&security_version=2")
    );
}

#[tokio::test]
async fn an_image_that_is_not_what_was_signed_is_not_started() {
    let good = release(Behaviour::Healthy);
    let mut flipped = good.image.clone();
    flipped[SIZE / 2] ^= 0x10;
    let truncated = good.image[..SIZE - 1000].to_vec();
    for (image, expected) in [
        (flipped, "failed 1.1.0 digest"),
        (truncated, "failed 1.1.0 download"),
    ] {
        let story = Story::new().await;
        story.server.publish(&good);
        story.server.image.borrow_mut().1 = image;
        story
            .with_device(ONCE, true, async || {
                story.until_told(expected).await;
                // What is right is taken, though it failed before, if that is asked for.
                story.server.publish(&good);
                story.order(json!({"action": "update"}));
                story.until_told("confirmed 1.1.0").await;
            })
            .await;
        assert_eq!(story.boots().len(), 2, "the bad one was never started");
    }
}

#[tokio::test]
async fn a_download_that_is_cut_at_every_tenth_goes_on_where_it_was() {
    let story = Story::new().await;
    story.server.publish(&release(Behaviour::Healthy));
    let cuts: Vec<_> = (1..10).map(|tenth| SIZE * tenth / 10).collect();
    story.server.cuts.replace(cuts.iter().copied().collect());
    story
        .with_device(ONCE, true, async || {
            story.until_told("confirmed 1.1.0").await;
        })
        .await;
    let parts = story.server.sent.borrow().clone();
    let starts: Vec<_> = parts.iter().map(|(from, _)| *from).collect();
    assert_eq!(starts, [&[0][..], &cuts].concat(), "at the very next byte");
    assert_eq!(story.sent(), (SIZE, true), "and no byte twice");
    assert_eq!(
        story.updates()[..2],
        ["offered 1.1.0", "downloading 1.1.0"],
        "told once"
    );
    assert_eq!(story.updates().len(), 4);
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_the_whole() {
    let story = Story::new().await;
    story.server.publish(&release(Behaviour::Healthy));
    story.server.whole_only.set(true);
    story.server.cuts.borrow_mut().push_back(SIZE / 2);
    story
        .with_device(ONCE, true, async || {
            story.until_told("confirmed 1.1.0").await;
        })
        .await;
    assert_eq!(*story.server.sent.borrow(), [(0, SIZE / 2), (0, SIZE)]);
}

/// The power goes again and again in the midst of the download; each start goes on at the last note.
#[tokio::test]
async fn a_download_outlasts_power_losses() {
    let story = Story::new().await;
    story.server.publish(&release(Behaviour::Healthy));
    for tenth in [4, 6, 8] {
        let cut = SIZE * tenth / 10;
        story.server.cuts.borrow_mut().push_back(cut);
        story
            .with_device(ONCE, true, async || {
                story
                    .until("the cut", || {
                        story
                            .server
                            .sent
                            .borrow()
                            .last()
                            .is_some_and(|part| part.1 == cut)
                    })
                    .await;
                // The connection is gone, so whatever arrived is in the device's hands when it
                // comes back; until then it is given time to write that.
                let asked = story.server.queries.borrow().len();
                story
                    .until("it is back", || story.server.queries.borrow().len() > asked)
                    .await;
            })
            .await;
    }
    story
        .with_device(ONCE, true, async || {
            story.until_told("confirmed 1.1.0").await;
        })
        .await;
    let (sent, _) = story.sent();
    let most = SIZE + 3 * (32 * 1024 + 4096) + SIZE / 2;
    assert!(sent <= most, "{:?}", story.server.sent.borrow());
    let starts: Vec<_> = story
        .server
        .sent
        .borrow()
        .iter()
        .map(|part| part.0)
        .collect();
    assert!(
        starts.contains(&(32 * 1024)) || starts.contains(&(64 * 1024)),
        "{starts:?}"
    );
}

/// An image that fails in each of the ways there are, with both kinds of boot loader.
#[tokio::test]
async fn an_image_that_fails_is_taken_back() {
    let quick = Timing {
        trial: Duration::from_secs(3),
        ..ONCE
    };
    for (behaviour, rolls_back, reason) in [
        (Behaviour::Crashes, true, "crashed"),
        (Behaviour::Crashes, false, "crashed"),
        (Behaviour::Hangs, true, "watchdog"),
        (Behaviour::Hangs, false, "watchdog"),
        (Behaviour::Unreachable, true, "not_confirmed"),
        (Behaviour::Unreachable, false, "not_confirmed"),
        // What never gets as far as the device's own code only a boot loader can take back.
        (Behaviour::CrashesAtStart, true, "crashed"),
    ] {
        let story = Story::new().await;
        let bad = release(behaviour);
        story.server.publish(&bad);
        let rolled_back = format!("rolled_back 1.1.0 {reason}");
        let timing = if behaviour == Behaviour::Unreachable {
            quick
        } else {
            ONCE
        };
        story
            .with_device(timing, rolls_back, async || {
                story.until_told(&rolled_back).await;
                // It is offered still, and not tried again.
                story
                    .until("a look by the old firmware", || {
                        story.server.queries.borrow().len() >= 2
                    })
                    .await;
                story.order(json!({"action": "report"}));
                story
                    .until("health", || {
                        story
                            .told
                            .borrow()
                            .iter()
                            .any(|event| event["event"] == "health")
                    })
                    .await;
            })
            .await;
        let expected = [
            "offered 1.1.0",
            "downloading 1.1.0",
            "installed 1.1.0",
            &rolled_back,
        ];
        assert_eq!(story.updates(), expected, "{behaviour:?} {rolls_back}");
        let last = story.boots().pop().unwrap();
        assert_eq!(last["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(last["update"], "rolled_back");
        // Told once: the next start has nothing more to say of it. A later release is taken.
        let better = Release {
            sequence: 8,
            ..Release::new("1.1.1", firmware("1.1.1", Behaviour::Healthy).image(9000))
        };
        story.server.publish(&better);
        story
            .with_device(ONCE, rolls_back, async || {
                story.until_told("confirmed 1.1.1").await;
            })
            .await;
        let again = story
            .updates()
            .iter()
            .filter(|event| **event == rolled_back)
            .count();
        assert_eq!(again, 1);
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_gateway_is_told_nothing() {
    let mut story = Story::new().await;
    story.server = Server::start(story.gateway.impostor()).await;
    story.server.publish(&release(Behaviour::Healthy));
    story
        .with_device(ONCE, true, async || {
            story
                .until("it hangs up", || story.server.refused.get() >= 2)
                .await;
            story.order(json!({"action": "report"}));
            story
                .until("health", || {
                    story
                        .told
                        .borrow()
                        .iter()
                        .any(|event| event["event"] == "health")
                })
                .await;
        })
        .await;
    assert_eq!(*story.server.queries.borrow(), Vec::<String>::new());
    assert_eq!(story.updates(), Vec::<String>::new());
    assert!(slot(story.flash.path(), 1).iter().all(|byte| *byte == 0xff));
}

#[tokio::test]
async fn a_device_without_a_release_key_takes_no_updates() {
    let mut story = Story::new().await;
    story.keys.clear();
    story.server.publish(&release(Behaviour::Healthy));
    story
        .with_device(ONCE, true, async || {
            story.until("it starts", || story.boots().len() == 1).await;
            story.order(json!({"action": "update"}));
            story
                .until("its answer", || {
                    story
                        .told
                        .borrow()
                        .iter()
                        .any(|ack| ack["status"] == "failed")
                })
                .await;
        })
        .await;
    let told = story.told.borrow();
    let ack = told.iter().find(|ack| ack["status"] == "failed").unwrap();
    assert!(
        ack["detail"].as_str().unwrap().contains("no release key"),
        "{ack}"
    );
    assert_eq!(*story.server.queries.borrow(), Vec::<String>::new());
}

/// Old and new key side by side: a device that knows both takes what either has signed.
#[tokio::test]
async fn keys_are_rotated() {
    let mut story = Story::new().await;
    story.keys.push(public(&retired_key()));
    let release = release(Behaviour::Healthy);
    story.server.publish(&release);
    story
        .server
        .offer
        .replace(Some(release.signed(&retired_key())));
    story
        .with_device(ONCE, true, async || {
            story.until_told("confirmed 1.1.0").await;
        })
        .await;
}
