//! What is broken on purpose under the members, and which rule has to find it.

use crate::STEP;
use crate::nemesis::Nemesis;
use crate::watch::Watch;
use crate::world::World;
use quorate_state::ids::LeaseId;
use quorate_state::lease::principal;

/// When stores begin to lie about syncs, and when power is cut, where tails are lost.
const LIES: u64 = 4_000;
const CUT: u64 = 5_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Stores say that they have synced, and have not.
    NothingSynced,
    /// So do those of more than half of the members, whose power is cut then: they come back without the last of log and vote, and go on.
    TailsLost,
    /// A login whose lease is revoked is there again.
    LoginBack,
    /// As many clocks as are believed are an hour ahead.
    ClocksAhead,
    /// Somebody makes a login of a name that the vault could have given it.
    LoginPlanted,
    /// Somebody drops all logins behind the vault's back.
    LoginsDropped,
}

impl Sabotage {
    /// All of them, and how what they are found as begins.
    pub(crate) const ALL: [(Self, &[&str]); 6] = [
        (Self::NothingSynced, &["K1"]),
        (Self::TailsLost, &["K1"]),
        (Self::LoginBack, &["L1"]),
        (Self::ClocksAhead, &["T1"]),
        (Self::LoginPlanted, &["L2"]),
        (Self::LoginsDropped, &["L6"]),
    ];

    /// The one that a process is told of, if it is.
    pub(crate) fn told() -> Option<Self> {
        let name = std::env::var("SABOTAGE").ok()?;
        let all = Self::ALL.iter().map(|(sabotage, _)| *sabotage);
        Some(all.into_iter().find(|sabotage| format!("{sabotage:?}") == name).expect("the name of a sabotage"))
    }

    /// Whether nothing else goes wrong. Where stores lie and power is cut here and there, votes are lost with the rest: which of K2, K4, K5, L4
    /// and L7 then breaks first, or whether openraft ends a member whose log went back, depends on the seed. All of it follows from K1.
    pub(crate) fn alone(self) -> bool {
        matches!(self, Self::NothingSynced | Self::TailsLost)
    }

    /// Whether logs are not looked at for now: lost tails are found by what is lost, and not, as [`Self::NothingSynced`], by what could be.
    pub(crate) fn unseen(self, now: u64) -> bool {
        self == Self::TailsLost && now <= CUT
    }

    /// Does it, at each step.
    pub(crate) async fn act(self, world: &mut World, nemesis: &mut Nemesis, watch: &Watch, now: u64) {
        match self {
            Self::NothingSynced => world.members().for_each(|index| world.store(index).lie_about_syncs()),
            Self::TailsLost => lose_tails(world, nemesis, now).await,
            Self::LoginBack => watch.revoked("t").iter().for_each(|login| world.target("t").plant(login, true)),
            Self::ClocksAhead => (1..=2).for_each(|index| world.clock(index).shift(3_600_000)),
            Self::LoginPlanted => {
                world.target("t").plant(&principal(&world.profile.cluster, "t", &LeaseId([7; 16])), true);
            }
            Self::LoginsDropped => world.logins("t").iter().for_each(|login| world.target("t").forget(login)),
        }
    }
}

/// Loses what more than half of the members had acknowledged in a second and a half; the others stay off until all is well.
async fn lose_tails(world: &mut World, nemesis: &mut Nemesis, now: u64) {
    let step = u64::try_from(STEP.as_millis()).unwrap();
    let most = u8::try_from(world.members().count() / 2 + 1).unwrap();
    if (LIES..LIES + step).contains(&now) {
        world.members().for_each(|index| world.store(index).lie_about_syncs());
    }
    if (CUT..CUT + step).contains(&now) {
        for index in world.members() {
            world.power_off(index);
        }
        for index in world.members() {
            if index <= most {
                world.power_on(index).await;
            } else {
                nemesis.keep_off(index, crate::FAULTS);
            }
        }
    }
}
