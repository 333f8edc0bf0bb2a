use proptest::prelude::*;

use super::*;
use crate::store::DeviceKey;

fn signing(publish: &[&str], subscribe: &[&str]) -> Device {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Device {
        publish: texts(publish),
        subscribe: texts(subscribe),
        ..Device::new(DeviceKey(1), "me".parse().unwrap())
    }
}

fn plain(publish: &[&str], telemetry: &[&str], command: Option<&str>) -> Device {
    Device {
        signing: Signing::None,
        telemetry: telemetry.iter().map(|text| (*text).to_owned()).collect(),
        command_topic: command.map(str::to_owned),
        ..signing(publish, &[])
    }
}

#[test]
fn a_device_speaks_on_its_own_topics_and_those_listed() {
    let device = signing(&["lights/+/set", "log/#"], &[]);
    for (topic, expected) in [
        ("device/me/data", Permission::Contract(Channel::Data)),
        ("device/me/event", Permission::Contract(Channel::Event)),
        ("device/me/ack", Permission::Contract(Channel::Ack)),
        // The gateway's word, not the device's.
        ("device/me/response", Permission::Denied),
        ("device/me/command", Permission::Denied),
        ("device/me/other", Permission::Denied),
        ("device/me", Permission::Denied),
        ("device/you/data", Permission::Denied),
        ("device/ME/data", Permission::Denied),
        ("device/me2/data", Permission::Denied),
        ("device//data", Permission::Denied),
        ("/device/me/data", Permission::Denied),
        ("device/me/data/", Permission::Denied),
        ("lights/1/set", Permission::Free),
        ("lights/1/2/set", Permission::Denied),
        ("lights/+/set", Permission::Denied),
        ("log", Permission::Free),
        ("log/a/b", Permission::Free),
        ("$SYS/x", Permission::Denied),
        ("", Permission::Denied),
    ] {
        assert_eq!(may_publish(&device, topic), expected, "{topic}");
    }
}

#[test]
fn a_device_that_does_not_sign_has_listed_topics_only() {
    let device = plain(
        &["gates/gate1/status"],
        &["sensors/pot"],
        Some("sensors/led/set"),
    );
    for (topic, expected) in [
        ("sensors/pot", Permission::Telemetry),
        ("gates/gate1/status", Permission::Free),
        ("device/me/data", Permission::Denied),
        ("sensors/led/set", Permission::Denied),
    ] {
        assert_eq!(may_publish(&device, topic), expected, "{topic}");
    }
    assert_eq!(may_subscribe(&device, "sensors/led/set"), Access::Free);
    assert_eq!(may_subscribe(&device, "sensors/led/#"), Access::Denied);
    assert_eq!(may_subscribe(&device, "device/me/command"), Access::Denied);
}

#[test]
fn a_device_listens_to_its_own_topics_and_those_listed() {
    let device = signing(&[], &["lights/+/state", "news/#"]);
    for (filter, expected) in [
        ("device/me/command", Access::Own),
        ("device/me/response", Access::Own),
        ("device/me/#", Access::Own),
        ("device/me/+", Access::Own),
        ("$share/g/device/me/command", Access::Own),
        ("device/me", Access::Denied),
        ("device/+/command", Access::Denied),
        ("device/#", Access::Denied),
        ("device/me2/#", Access::Denied),
        ("+/me/command", Access::Denied),
        ("+/+/+", Access::Denied),
        ("#", Access::Denied),
        ("$share/g/#", Access::Denied),
        ("$share//news/a", Access::Denied),
        ("$SYS/#", Access::Denied),
        ("lights/1/state", Access::Free),
        ("lights/+/state", Access::Free),
        ("lights/#", Access::Denied),
        ("lights/+/+", Access::Denied),
        ("news", Access::Free),
        ("news/#", Access::Free),
        ("news/+/today", Access::Free),
        ("news#", Access::Denied),
        ("", Access::Denied),
    ] {
        assert_eq!(may_subscribe(&device, filter), expected, "{filter}");
    }
}

#[test]
fn an_operator_reads_everything_and_writes_on_free_topics() {
    for (topic, expected) in [
        ("lights/1/set", true),
        ("device/me/data", false),
        ("device/me/command", false),
        ("device", false),
        ("devices/me", true),
        ("$SYS/x", false),
        ("a/+", false),
    ] {
        assert_eq!(operator_may_publish(topic), expected, "{topic}");
    }
    for filter in ["#", "device/+/data", "$SYS/#", "$share/g/device/#"] {
        assert!(operator_may_subscribe(filter), "{filter}");
    }
    assert!(!operator_may_subscribe("a#"));
}

#[test]
fn a_device_cannot_be_given_what_reaches_others() {
    let me = "me".parse().unwrap();
    for (filter, expected) in [
        ("lights/+/set", Ok(())),
        ("device/me/extra", Ok(())),
        ("#", Err(TopicFault::Unbounded)),
        ("+/me/data", Err(TopicFault::Unbounded)),
        ("device/#", Err(TopicFault::NotItsOwn)),
        ("device/+/data", Err(TopicFault::NotItsOwn)),
        ("device/you/data", Err(TopicFault::NotItsOwn)),
        ("device", Err(TopicFault::NotItsOwn)),
        ("$SYS/#", Err(TopicFault::Reserved)),
        ("$share/g/lights", Err(TopicFault::Reserved)),
        ("a/#/b", Err(TopicFault::InvalidFilter)),
        ("", Err(TopicFault::InvalidFilter)),
    ] {
        assert_eq!(check_filter(&me, filter), expected, "{filter}");
    }
    assert_eq!(
        check_topic(&me, "lights/+/set"),
        Err(TopicFault::InvalidTopic)
    );
    assert_eq!(check_topic(&me, "lights/set"), Ok(()));
}

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "device", "me", "you", "data", ""]).prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
    (prop::collection::vec(level, 1..5), any::<bool>()).prop_map(|(mut levels, open)| {
        if open {
            levels.push("#".to_owned());
        }
        levels.join("/")
    })
}

proptest! {
    /// Covering means: no topic is matched by the wanted filter and not by the allowed one.
    #[test]
    fn covering_lets_nothing_else_through(allowed in filter(), wanted in filter(), name in name()) {
        if valid_filter(&allowed) && valid_filter(&wanted) && covers(&allowed, &wanted) && matches(&wanted, &name) {
            prop_assert!(matches(&allowed, &name), "{} {} {}", allowed, wanted, name);
        }
    }

    /// Whatever a device may be given, no subscription it is granted reaches another's topics.
    #[test]
    fn no_granted_subscription_reaches_another_device(listed in prop::collection::vec(filter(), 0..4), wanted in filter()) {
        let me = "me".parse().unwrap();
        let listed: Vec<&str> = listed.iter().map(String::as_str).filter(|f| check_filter(&me, f).is_ok()).collect();
        let device = signing(&listed, &listed);
        if may_subscribe(&device, &wanted) != Access::Denied {
            prop_assert!(!matches(&wanted, "device/you/data") && !matches(&wanted, "device/you/command"));
        }
        prop_assert_eq!(may_publish(&device, "device/you/data"), Permission::Denied);
    }
}
