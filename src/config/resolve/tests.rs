//! Tests of how flags, environment and files become one configuration.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{BrokerKind, Management, write_session_address};
use crate::transport::ListenerDemand;

struct TestHome {
    folder: tempfile::TempDir,
}

impl TestHome {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn environment(&self, more: &[(&str, &str)]) -> Environment {
        let home = self.folder.path().to_str().unwrap();
        [("CBROKER_HOME", home)]
            .into_iter()
            .chain(more.iter().copied())
            .collect()
    }

    fn home(&self) -> Home {
        Home::of(&self.environment(&[])).unwrap()
    }

    fn config(&self, flags: &Flags, more: &[(&str, &str)]) -> Result<Config, Error> {
        Config::resolve(flags, self.environment(more))
    }
}

fn url(url: &str) -> Flags {
    Flags {
        url: Some(url.into()),
        ..Flags::default()
    }
}

#[test]
fn another_broker_than_the_configured_one_has_a_management_api_with_a_guard_of_its_own() {
    let home = TestHome::new();
    let config = home.config(&Flags::default(), &[]).unwrap();
    let guard = |url: &str| config.for_url(url).unwrap().management.guard;
    let derived = |port| LoginGuard::Derived {
        broker_port: Some(port),
    };
    assert_eq!(guard("amqp://u:p@broker.example"), derived(5672));
    assert_eq!(guard("amqps://u:p@broker.example"), derived(5671));
    assert_eq!(guard("amqp://u:p@127.0.0.1:7000"), derived(7000));
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_local_broker() {
    let home = TestHome::new();
    let kind = BrokerKind::Container { name: "x".into() };
    let local = LocalBroker {
        version: 1,
        kind,
        host: Ipv4Addr::LOCALHOST.into(),
        port: 7001,
        management_port: Some(7002),
        guest: false,
    };
    let seen = |flags: &Flags, more: &[(&str, &str)]| {
        let config = home.config(flags, more).unwrap();
        (config.endpoint.address.port, config.endpoint_origin)
    };
    assert_eq!(seen(&Flags::default(), &[]), (5672, ValueOrigin::Default));
    local.write(&home.home()).unwrap();
    assert_eq!(seen(&Flags::default(), &[]), (7001, ValueOrigin::Local));
    fs::write(home.home().config_file(), "url = \"amqp://h:7003\"\n").unwrap();
    assert_eq!(seen(&Flags::default(), &[]), (7003, ValueOrigin::File));
    let environment = [("CBROKER_URL", "amqp://h:7004")];
    assert_eq!(
        seen(&Flags::default(), &environment),
        (7004, ValueOrigin::Environment)
    );
    assert_eq!(
        seen(&url("amqp://h:7005"), &environment),
        (7005, ValueOrigin::Flag)
    );
}

#[test]
fn the_management_address_follows_the_broker() {
    let home = TestHome::new();
    let at = |text: &str| home.config(&url(text), &[]).unwrap().management;
    assert_eq!(at("amqp://localhost").url, "http://localhost:15672");
    let cloud = at("amqps://u:p@campbell.lmq.cloudamqp.com/u");
    assert_eq!(cloud.url, "https://campbell.lmq.cloudamqp.com");
    assert_eq!(
        (cloud.login.user.as_str(), cloud.login.password.as_str()),
        ("u", "p")
    );
}

#[test]
fn a_broker_that_nobody_named_must_be_the_users_own() {
    let home = TestHome::new();
    let demands = |flags: &Flags| {
        let config = home.config(flags, &[]).unwrap();
        let Config {
            endpoint,
            management,
            ..
        } = config;
        [endpoint.guard, management.guard].map(|guard| guard.listener_demand())
    };
    let ours = [ListenerDemand::Ours; 2];
    let given = |port| {
        let beside = Some(port);
        [
            ListenerDemand::Anybody,
            ListenerDemand::OursIfHere { beside },
        ]
    };
    assert_eq!(demands(&Flags::default()), ours, "before any start");
    assert_eq!(demands(&url("amqp://localhost")), given(5672));
    assert_eq!(demands(&url("amqp://u:p@localhost:5673")), given(5673));
    let named = Flags {
        mgmt_url: Some("http://localhost:15672".into()),
        ..url("amqp://u:p@localhost")
    };
    assert_eq!(demands(&named), [ListenerDemand::Anybody; 2]);
    let login = Flags {
        mgmt_pass: Some("secret".into()),
        ..Flags::default()
    };
    let beside = None;
    let own_alone = ListenerDemand::OursIfHere { beside };
    assert_eq!(demands(&login), [ListenerDemand::Ours, own_alone]);
    let local = LocalBroker {
        version: 1,
        kind: BrokerKind::Container { name: "x".into() },
        host: Ipv4Addr::LOCALHOST.into(),
        port: 7001,
        management_port: None,
        guest: true,
    };
    local.write(&home.home()).unwrap();
    assert_eq!(demands(&Flags::default()), ours, "guest's container");
    // As a command inside a session names it.
    assert_eq!(demands(&url("amqp://localhost:7001")), ours);
    assert_eq!(
        demands(&url("amqp://guest:guest@localhost:7001")),
        given(7001)
    );
}

#[test]
fn the_password_of_the_local_broker_is_made_once_and_used_by_itself() {
    let home = TestHome::new();
    assert_eq!(
        home.config(&Flags::default(), &[]).unwrap().endpoint.login,
        Credentials::none_yet()
    );
    let made = Credentials::read_or_create(&home.home()).unwrap();
    assert_eq!(made, Credentials::read_or_create(&home.home()).unwrap());
    let mode = fs::metadata(home.home().credentials_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let used = |text: &str| home.config(&url(text), &[]).unwrap().endpoint.login;
    assert_eq!(used("amqp://127.0.0.1:7000"), made);
    assert_eq!(used("amqp://guest:guest@localhost").user, "guest");
    assert_eq!(used("amqp://elsewhere.example").user, "guest");
}

#[test]
fn a_command_inside_a_session_takes_the_password_that_its_wrap_wrote() {
    let home = TestHome::new();
    let session = ulid::Ulid::generate().to_string();
    let outer = home
        .config(&url("amqps://u:secret@far.example/v"), &[])
        .unwrap();
    write_session_address(&outer, &session).unwrap();
    let visible = outer.endpoint.address.without_password().to_string();
    assert!(!visible.contains("secret"));
    let inner = home
        .config(
            &Flags::default(),
            &[("CBROKER_URL", &visible), ("CBROKER_SESSION", &session)],
        )
        .unwrap();
    assert_eq!(inner.endpoint.login.password, "secret");
    let elsewhere = [
        ("CBROKER_URL", "amqps://u@other.example/v"),
        ("CBROKER_SESSION", session.as_str()),
    ];
    assert_eq!(
        home.config(&Flags::default(), &elsewhere)
            .unwrap()
            .endpoint
            .login
            .password,
        "guest"
    );
}

#[test]
fn a_slip_in_the_file_is_an_error_with_its_line() {
    let home = TestHome::new();
    fs::write(home.home().config_file(), "# mine\nautostrat = true\n").unwrap();
    let error = home.config(&Flags::default(), &[]).unwrap_err();
    assert!(
        error
            .summary()
            .contains("config.toml line 2: unknown field `autostrat`"),
        "{error}"
    );
    assert_eq!(error.exit(), Exit::Usage);
}

#[test]
fn no_way_of_showing_a_config_shows_a_password() {
    let home = TestHome::new();
    let config = home.config(&url("amqp://u:secret@localhost"), &[]).unwrap();
    assert!(!format!("{config:?}").contains("secret"));
    assert!(config.warnings[0].contains("CBROKER_URL"));
}

#[test]
fn the_guard_follows_the_stored_password_and_the_user_stays_as_given() {
    let home = TestHome::new();
    let stored = Credentials::read_or_create(&home.home()).unwrap();
    let session = ulid::Ulid::generate().to_string();
    let at = format!("amqp://ada:{}@127.0.0.1:7000", stored.password);
    let outer = home.config(&url(&at), &[]).unwrap();
    write_session_address(&outer, &session).unwrap();
    let outer = outer.endpoint;
    assert_eq!(outer.guard.listener_demand(), ListenerDemand::Ours);
    let visible = outer.address.without_password().to_string();
    let inside = [
        ("CBROKER_URL", visible.as_str()),
        ("CBROKER_SESSION", &session),
    ];
    let inner = home.config(&Flags::default(), &inside).unwrap();
    assert_eq!(inner.endpoint.login, outer.login);
    let flags = Flags {
        mgmt_user: Some("ada".into()),
        mgmt_pass: Some(stored.password),
        mgmt_url: Some("http://api.example".into()),
        ..Flags::default()
    };
    let Management { login, guard, .. } = home.config(&flags, &[]).unwrap().management;
    assert_eq!(guard.listener_demand(), ListenerDemand::Ours);
    let new = Credentials::fresh("cbroker").unwrap();
    Credentials::replace(&home.home(), &new).unwrap();
    let now = guard.login_now(&login);
    let rotated = ("ada", new.password.as_str());
    assert_eq!((now.user.as_str(), now.password.as_str()), rotated);
    let derived = Flags {
        mgmt_url: None,
        mgmt_pass: Some(new.password),
        ..flags
    };
    let guard = home.config(&derived, &[]).unwrap().management.guard;
    assert_eq!(guard.listener_demand(), ListenerDemand::Ours);
    assert_eq!(
        guard.socket("management.sock"),
        None,
        "that of the first user"
    );
}

/// The API's address and login.
fn api(config: &Config) -> [&str; 3] {
    let Management { url, login, .. } = &config.management;
    [url, &login.user, &login.password]
}

#[test]
fn what_the_file_says_of_an_api_is_not_for_the_broker_of_a_flag() {
    // The login in --url went to the API that the file named for another broker, and the file's
    // login to the API of --url.
    let home = TestHome::new();
    let of_file = "mgmt_user = \"ada\"\nmgmt_pass = \"secret\"\n";
    let derived = ["http://other.example:15672", "u", "p"];
    for named in ["", "mgmt_url = \"http://api.example\"\n"] {
        fs::write(home.home().config_file(), format!("{named}{of_file}")).unwrap();
        let config = home.config(&url("amqp://u:p@other.example"), &[]).unwrap();
        assert_eq!(api(&config), derived);
        // Nor for that of an environment, where the file names its own.
        let text = format!("url = \"amqp://mine.example\"\n{named}{of_file}");
        fs::write(home.home().config_file(), text).unwrap();
        let environment = [("CBROKER_URL", "amqp://u:p@other.example")];
        let config = home.config(&Flags::default(), &environment).unwrap();
        assert_eq!(api(&config), derived);
    }
    let same = ["amqp://u:p@mine.example", "amqp://u:p@mine.example/v"];
    for same in same {
        let config = home.config(&url(same), &[]).unwrap();
        assert_eq!(
            api(&config),
            ["http://api.example", "ada", "secret"],
            "{same}"
        );
    }
}

#[test]
fn a_login_that_was_given_for_one_api_is_not_for_another() {
    let home = TestHome::new();
    let text = "mgmt_url = \"http://api.example\"\nmgmt_user = \"ada\"\nmgmt_pass = \"secret\"\n";
    fs::write(home.home().config_file(), text).unwrap();
    let elsewhere = Flags {
        mgmt_url: Some("http://other.example".into()),
        ..url("amqp://u:p@localhost")
    };
    let environment = [("CBROKER_URL", "amqp://u:p@localhost")];
    let config = home.config(&elsewhere, &environment).unwrap();
    assert_eq!(api(&config), ["http://other.example", "u", "p"]);
    // A login without an address is for each.
    let login = [
        environment[0],
        ("CBROKER_MGMT_USER", "eve"),
        ("CBROKER_MGMT_PASS", "hush"),
    ];
    let config = home.config(&elsewhere, &login).unwrap();
    assert_eq!(api(&config), ["http://other.example", "eve", "hush"]);
}

#[test]
fn a_password_goes_with_its_own_user_and_a_user_without_one_is_an_error() {
    // A user in the file without a password was ignored, and one in the environment was sent with
    // the broker's password.
    let home = TestHome::new();
    let broker = ("CBROKER_URL", "amqp://u:p@broker.example");
    let login = |file: &str, flags: &Flags, more: &[(&str, &str)]| {
        fs::write(home.home().config_file(), file).unwrap();
        let environment = [&[broker][..], more].concat();
        let config = home.config(flags, &environment);
        config.map(|config| config.management.login)
    };
    let is = |user: &str, password: &str| {
        let (user, password) = (user.to_owned(), password.to_owned());
        Login { user, password }
    };
    let none = Flags::default();
    let ada = Flags {
        mgmt_user: Some("ada".into()),
        ..Flags::default()
    };
    let secret = ("CBROKER_MGMT_PASS", "secret");
    let user = "mgmt_user = \"ada\"\n";
    assert_eq!(login(user, &none, &[secret]).unwrap(), is("ada", "secret"));
    assert_eq!(login("", &ada, &[secret]).unwrap(), is("ada", "secret"));
    let password = "mgmt_pass = \"hush\"\n";
    assert_eq!(login(password, &none, &[]).unwrap(), is("u", "hush"));
    assert_eq!(
        login("mgmt_user = \"u\"\n", &none, &[]).unwrap(),
        is("u", "p")
    );
    let in_url = "mgmt_url = \"http://ada:s%40@api.example/\"\n";
    assert_eq!(login(in_url, &none, &[]).unwrap(), is("ada", "s@"));
    let eve = ("CBROKER_MGMT_USER", "eve");
    for (file, flags, more, what) in [
        (user, &none, &[][..], "mgmt_user in "),
        ("", &none, &[eve][..], "CBROKER_MGMT_USER"),
        ("", &ada, &[][..], "--mgmt-user"),
        // The password beside another user.
        (
            "mgmt_user = \"eve\"\nmgmt_pass = \"x\"\n",
            &ada,
            &[][..],
            "--mgmt-user",
        ),
        (in_url, &none, &[eve][..], "CBROKER_MGMT_USER"),
    ] {
        let error = login(file, flags, more).unwrap_err();
        let said = error.summary();
        assert!(
            said.starts_with(what) && said.ends_with(" has no password"),
            "{said}"
        );
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.hint().unwrap().contains("CBROKER_MGMT_PASS"));
    }
}

#[test]
fn a_login_in_the_address_of_an_api_is_used_and_not_shown() {
    let home = TestHome::new();
    let flags = Flags {
        mgmt_url: Some("http://ada:secret@api.example/prefix/".into()),
        ..Flags::default()
    };
    let config = home.config(&flags, &[]).unwrap();
    assert_eq!(api(&config), ["http://api.example/prefix", "ada", "secret"]);
    assert!(!format!("{config:?}").contains("secret"));
    assert!(config.warnings[0].contains("--mgmt-url"));
    for wrong in ["http://ada:s/x@api.example", "http://ada:%zz@api.example"] {
        let flags = Flags {
            mgmt_url: Some(wrong.into()),
            ..Flags::default()
        };
        let error = home.config(&flags, &[]).unwrap_err();
        assert!(!error.to_string().contains("ada"), "{error}");
    }
}

#[test]
fn a_session_of_another_broker_does_not_use_what_the_file_says_of_an_api() {
    let home = TestHome::new();
    let text = "mgmt_url = \"http://api.example\"\nmgmt_user = \"ada\"\nmgmt_pass = \"secret\"\n";
    fs::write(home.home().config_file(), text).unwrap();
    let session = ulid::Ulid::generate().to_string();
    let inside = |outer: &Config| {
        write_session_address(outer, &session).unwrap();
        let visible = outer.endpoint.address.without_password().to_string();
        let environment = [
            ("CBROKER_URL", visible.as_str()),
            ("CBROKER_SESSION", session.as_str()),
        ];
        home.config(&Flags::default(), &environment).unwrap()
    };
    let other = home.config(&url("amqp://u:p@other.example"), &[]).unwrap();
    let inner = inside(&other);
    assert_eq!(api(&inner), ["http://other.example:15672", "u", "p"]);
    // A session within that session too.
    assert_eq!(api(&inside(&inner)), api(&inner));
    let usual = [("CBROKER_URL", "amqp://u:p@usual.example")];
    let usual = home.config(&Flags::default(), &usual).unwrap();
    assert_eq!(
        api(&inside(&usual)),
        ["http://api.example", "ada", "secret"]
    );
}

#[test]
fn the_flags_of_an_api_are_for_the_broker_that_is_moved_from() {
    let home = TestHome::new();
    let environment = [
        ("CBROKER_URL", "amqp://u:p@target.example"),
        ("CBROKER_MGMT_URL", "http://api.target.example"),
    ];
    let flags = Flags {
        mgmt_user: Some("ada".into()),
        mgmt_pass: Some("secret".into()),
        api: ApiChoice::WithoutFlags,
        ..Flags::default()
    };
    let target = home.config(&flags, &environment).unwrap();
    assert_eq!(api(&target), ["http://api.target.example", "u", "p"]);
    let source = target.for_source_url("amqp://x:y@source.example").unwrap();
    assert_eq!(
        api(&source),
        ["http://source.example:15672", "ada", "secret"]
    );
    let other = target.for_target_url("amqp://x:y@other.example").unwrap();
    assert_eq!(api(&other), ["http://other.example:15672", "x", "y"]);
    let usual = target
        .for_target_url("amqp://x:y@target.example/v")
        .unwrap();
    assert_eq!(api(&usual), ["http://api.target.example", "x", "y"]);
}

#[test]
fn a_file_that_names_two_brokers_is_refused() {
    let home = TestHome::new();
    let text = "url = \"amqp://a.example\"\nurl_file = \"/b\"\n";
    fs::write(home.home().config_file(), text).unwrap();
    let error = home.config(&Flags::default(), &[]).unwrap_err();
    assert!(error.summary().contains("both url and url_file"), "{error}");
    // A flag comes before both.
    assert!(home.config(&url("amqp://c.example"), &[]).is_ok());
}
