//! Where a prompt should be read, given what the slots hold already.
//!
//! Pure. The longest common beginning wins. It is taken where it lies if little else is lost with
//! it, and copied to a slot that nobody needs otherwise: copying a token's keys and values takes
//! microseconds, computing them milliseconds.

/// What a slot holds, and whether somebody stands there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding<'a> {
    pub(crate) slot: usize,
    pub(crate) tokens: &'a [u32],
}

/// How a prompt gets its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The free slot to take.
    pub(crate) slot: usize,
    /// Whose tokens to copy there first; `None` goes on with those that are there.
    pub(crate) source: Option<usize>,
    /// How many of the prompt's tokens are had that way.
    pub(crate) reused: usize,
}

/// Beginnings shorter than this are not worth being copied: the run that reads the rest of the
/// prompt takes about as long with them as without.
const COPIED_MIN: usize = 8;

/// Plans where `prompt` is read: `free` are the slots that may be taken, the one that is needed
/// least first, `taken` the others. `rewinds` says whether a slot's end may be forgotten.
///
/// At least the prompt's last token is left to be computed. `None` if no slot is free.
pub(crate) fn plan(
    prompt: &[u32],
    (free, taken): (&[Holding<'_>], &[Holding<'_>]),
    rewinds: bool,
) -> Option<Plan> {
    let usable = |holding: &Holding<'_>| {
        let common = common(prompt, holding.tokens);
        if rewinds || common == holding.tokens.len() { common } else { 0 }
    };
    // A slot that holds nothing costs nothing to take.
    let empty = free.iter().find(|holding| holding.tokens.is_empty());
    let spare = empty.or(free.first())?;
    // Of equals the last one left, whose end is most likely to be asked for again.
    let best_free = free.iter().max_by_key(|holding| usable(holding))?;
    let reused = usable(best_free);
    let best_taken = taken.iter().max_by_key(|holding| usable(holding));
    let elsewhere = best_taken.map_or(0, usable);
    let in_place = Plan { slot: best_free.slot, source: None, reused };
    let lost = best_free.tokens.len() - reused;
    let is_cheap = lost <= reused || best_free.slot == spare.slot;
    if elsewhere >= reused + COPIED_MIN {
        let source = best_taken.map(|holding| holding.slot);
        return Some(Plan { slot: spare.slot, source, reused: elsewhere });
    }
    if reused > 0 && is_cheap {
        return Some(in_place);
    }
    if reused >= COPIED_MIN {
        return Some(Plan { slot: spare.slot, source: Some(best_free.slot), reused });
    }
    Some(Plan { slot: spare.slot, source: None, reused: 0 })
}

/// How many tokens two sequences begin with in common, the prompt's last one never counted.
pub(crate) fn common(prompt: &[u32], held: &[u32]) -> usize {
    let but_last = &prompt[..prompt.len().saturating_sub(1)];
    but_last.iter().zip(held).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: u32, count: u32) -> Vec<u32> {
        (first..first + count).collect()
    }

    fn holdings(slots: &[(usize, Vec<u32>)]) -> Vec<Holding<'_>> {
        slots.iter().map(|(slot, tokens)| Holding { slot: *slot, tokens }).collect()
    }

    fn planned(prompt: &[u32], free: &[(usize, Vec<u32>)], taken: &[(usize, Vec<u32>)]) -> Plan {
        plan(prompt, (&holdings(free), &holdings(taken)), true).unwrap()
    }

    #[test]
    fn a_conversation_goes_on_where_it_stood() {
        let free = [(1, tokens(500, 90)), (2, tokens(0, 60)), (3, vec![])];
        let plan = planned(&tokens(0, 100), &free, &[]);
        assert_eq!(plan, Plan { slot: 2, source: None, reused: 60 });
    }

    #[test]
    fn the_last_token_is_always_computed() {
        let plan = planned(&tokens(0, 60), &[(0, tokens(0, 60))], &[]);
        assert_eq!(plan, Plan { slot: 0, source: None, reused: 59 });
        let plan = planned(&[7], &[(0, vec![7, 8])], &[]);
        assert_eq!(plan.reused, 0);
    }

    #[test]
    fn a_beginning_is_copied_where_taking_it_would_lose_much() {
        let mut prompt = tokens(0, 30);
        prompt.extend(tokens(900, 30));
        let long = (4, tokens(0, 200));
        let plan = planned(&prompt, &[long.clone(), (2, vec![])], &[]);
        assert_eq!(plan, Plan { slot: 2, source: Some(4), reused: 30 });
        // The slot that was left longest ago makes room, also if that is the one itself.
        let plan = planned(&prompt, &[(3, tokens(700, 9)), long.clone()], &[]);
        assert_eq!(plan, Plan { slot: 3, source: Some(4), reused: 30 });
        let plan = planned(&prompt, &[long, (3, tokens(700, 9))], &[]);
        assert_eq!(plan, Plan { slot: 4, source: None, reused: 30 });
    }

    #[test]
    fn a_running_sequence_lends_its_beginning() {
        let taken = [(0, tokens(0, 50)), (1, tokens(0, 80))];
        let plan = planned(&tokens(0, 70), &[(2, vec![]), (3, tokens(0, 20))], &taken);
        assert_eq!(plan, Plan { slot: 2, source: Some(1), reused: 69 });
        // A few tokens more are not worth a copy.
        let plan = planned(&tokens(0, 70), &[(2, vec![]), (3, tokens(0, 65))], &taken);
        assert_eq!(plan, Plan { slot: 3, source: None, reused: 65 });
    }

    #[test]
    fn a_short_beginning_is_neither_copied_nor_worth_a_long_end() {
        let taken = [(0, tokens(0, 7))];
        let plan = planned(&tokens(0, 70), &[(1, vec![]), (2, tokens(500, 5))], &taken);
        assert_eq!(plan, Plan { slot: 1, source: None, reused: 0 });
        let mut other = tokens(0, 7);
        other.extend(tokens(300, 50));
        let plan = planned(&tokens(0, 70), &[(1, tokens(40, 3)), (2, other)], &[]);
        assert_eq!(plan, Plan { slot: 1, source: None, reused: 0 });
    }

    #[test]
    fn what_can_not_be_rewound_is_taken_whole_or_not_at_all() {
        let plan = |prompt: &[u32], free: &[(usize, Vec<u32>)]| {
            plan(prompt, (&holdings(free), &[]), false).unwrap()
        };
        let whole = plan(&tokens(0, 70), &[(0, tokens(0, 40)), (1, tokens(0, 60))]);
        assert_eq!(whole, Plan { slot: 1, source: None, reused: 60 });
        let same = plan(&tokens(0, 60), &[(0, tokens(0, 60)), (1, vec![])]);
        assert_eq!(same, Plan { slot: 1, source: None, reused: 0 });
    }

    #[test]
    fn without_a_free_slot_there_is_no_plan() {
        assert_eq!(plan(&[1, 2], (&[], &holdings(&[(0, vec![1])])), true), None);
    }
}
