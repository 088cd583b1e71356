//! Something of each group of a log. A flush names its groups in their order, each several times: who asks
//! for one after the other finds it beside the one before.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::GroupId;

/// A value for each group that is known, in the order of the groups.
#[derive(Debug)]
pub(crate) struct Groups<T> {
    ids: Vec<GroupId>,
    /// Theirs.
    values: Vec<T>,
    /// Where the last one was that was asked for.
    last: usize,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self::from(BTreeMap::new())
    }
}

impl<T> From<BTreeMap<GroupId, T>> for Groups<T> {
    fn from(groups: BTreeMap<GroupId, T>) -> Self {
        let (ids, values) = groups.into_iter().unzip();
        Self {
            ids,
            values,
            last: 0,
        }
    }
}

impl<T> Groups<T> {
    /// What is known of a group; as much as nothing if it is new.
    pub(crate) fn of(&mut self, group: GroupId) -> &mut T
    where
        T: Default,
    {
        let at = self.position(group).unwrap_or_else(|at| {
            self.ids.insert(at, group);
            self.values.insert(at, T::default());
            at
        });
        self.last = at;
        &mut self.values[at]
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<&T> {
        let at = self.position(group).ok()?;
        Some(&self.values[at])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &T)> {
        self.ids.iter().copied().zip(&self.values)
    }

    /// Where a group is, or would be. Those behind the last one are looked at in steps that grow.
    fn position(&self, group: GroupId) -> Result<usize, usize> {
        let (mut from, mut step) = (self.last, 1);
        match self.ids.get(from) {
            Some(&id) if id == group => return Ok(from),
            Some(&id) if id < group => {}
            _ => return self.ids.binary_search(&group),
        }
        while self.ids.get(from + step).is_some_and(|&id| id <= group) {
            from += step;
            step *= 2;
        }
        let end = self.ids.len().min(from + step);
        let within = self.ids[from..end].binary_search(&group);
        within.map(|at| from + at).map_err(|at| from + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_as_in_a_map_whoever_was_asked_for_before() {
        let mut seed = 5_u64;
        let mut draw = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 16) % below
        };
        let (mut groups, mut model) = (Groups::default(), BTreeMap::new());
        for step in 0..5000 {
            let group = GroupId::from_raw(u32::try_from(draw(200)).expect("small"));
            assert_eq!(groups.get(group), model.get(&group), "{group}");
            if draw(3) == 0 {
                *groups.of(group) = step;
                *model.entry(group).or_default() = step;
            } else if model.contains_key(&group) {
                assert_eq!(*groups.of(group), model[&group], "{group}");
            }
            assert!(groups.iter().eq(model.iter().map(|(&id, it)| (id, it))));
        }
        let mut known = Groups::from(model.clone());
        for (&group, value) in &model {
            assert_eq!(known.of(group), value);
        }
    }
}
