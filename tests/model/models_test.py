#!/usr/bin/python3
"""Searches every state of the protocol models in docs/models with spin.

    models_test.py [WORD]    with a word: only those whose name contains it

A property holds only if the search was exhaustive: no state left out by depth, memory or hashing. A model with a part of
the protocol left out must be found broken, by an assertion; one that is reached shows that the model is not empty.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))
import tap  # noqa: E402

MODELS = ROOT / "docs" / "models"
DEPTH = 10000
MEGABYTES = 2000
SECONDS = 3600 if tap.LONG else 240  # for one search; each takes seconds here

# name, model, what is defined
HOLDS = [
    ("k1_is_secret_from_the_relay_and_vtpmd_and_manager_agree", "link", "K1"),
    ("k2_with_a_named_key_is_not_crossed_or_read_by_a_relay", "link", "K2_NAMED"),
    ("k2_with_a_named_key_is_not_crossed_between_two_starts", "link", "K2_NAMED SECOND_START"),
    ("k2_with_an_enrolled_key_is_not_crossed_or_read_by_a_relay", "link", "K2_ENROLLED"),
    ("k2_with_an_enrolled_key_is_not_crossed_between_two_starts", "link", "K2_ENROLLED SECOND_START"),
    ("k2_with_an_enrolled_key_is_not_crossed_by_the_operator", "link", "K2_ENROLLED OPERATOR"),
    ("k2_with_an_enrolled_key_is_not_crossed_between_two_starts_by_the_operator", "link",
     "K2_ENROLLED OPERATOR SECOND_START"),
    ("k2_with_one_enrolled_key_for_two_vms_is_not_crossed_by_the_operator", "link", "K2_ENROLLED OPERATOR ONE_FRONT_KEY"),
    ("only_a_genuine_instance_enclave_is_provisioned_and_both_agree", "peer", ""),
    ("only_the_recorded_holder_resumes", "resume", ""),
    ("nothing_answered_is_undone_and_one_holder_commits", "commit", "RECORDS=8"),
    ("nothing_answered_is_undone_and_one_holder_commits_in_more_records", "commit", "RECORDS=10 FORGET"),
    ("nothing_answered_is_undone_under_extensions_of_another_value", "commit", "RECORDS=7 EXTEND"),
    ("nothing_answered_is_undone_under_extensions_of_another_value_in_more_records", "commit", "RECORDS=9 EXTEND FORGET"),
    ("nothing_answered_is_undone_without_start_records_either", "commit", "RECORDS=8 NO_START_RECORD MANY FORGET"),
    ("a_copy_that_was_cut_off_is_bounded", "commit", "RECORDS=6 LEASES"),
    ("a_copy_that_was_cut_off_is_bounded_in_more_records", "commit", "RECORDS=7 LEASES FORGET"),
    ("an_honest_crash_locks_nobody_out", "commit", "RECORDS=11 HONEST"),
    ("an_honest_crash_locks_nobody_out_of_an_extended_anchor", "commit", "RECORDS=12 HONEST EXTEND FORGET ENCLAVES=3"),
    ("a_late_move_harms_no_anchor_that_compares", "commit", "RECORDS=10 HONEST LATE"),
    ("of_an_export_one_enclave_goes_on", "export", ""),
    ("a_load_is_counted_and_ends_what_was_open_and_no_counter_comes_twice", "export",
     "SNAPSHOTS LOADS=2 VERSIONS=5 MOMENTS=4"),
    ("an_instance_that_moves_is_at_one_member_and_never_lost", "move", "VERSIONS=2 DEATHS=1 DELETES"),
    ("an_instance_that_two_members_ask_for_is_at_one_and_never_lost", "move", "MANAGERS=3 STARTS=2 VERSIONS=1"),
    ("an_instance_that_is_passed_on_and_comes_home_or_is_deleted", "move",
     "MANAGERS=3 STARTS=4 VERSIONS=1 STOPPED_ONLY DELETES"),
]
# Larger bounds, where a search takes up to some minutes
HOLDS_LONG = [
    ("four_commits_and_nothing_answered_is_undone", "commit", "RECORDS=12 VERSIONS=4 FORGET"),
    ("three_enclaves_and_nothing_answered_is_undone", "commit", "RECORDS=11 ENCLAVES=3 FORGET"),
    ("nothing_answered_is_undone_in_nine_records_with_none_forgotten", "commit", "RECORDS=9"),
    ("a_copy_that_was_cut_off_is_bounded_in_eight_records", "commit", "RECORDS=8 LEASES FORGET"),
    ("three_crashes_and_four_commits_lock_nobody_out", "commit", "RECORDS=14 HONEST EXTEND FORGET ENCLAVES=3 VERSIONS=4"),
    ("six_versions_and_two_loads_are_counted", "export", "SNAPSHOTS LOADS=2 VERSIONS=6 MOMENTS=4"),
    ("an_instance_that_moves_and_commits_is_at_one_member", "move", "VERSIONS=3"),
    ("an_instance_that_commits_while_two_members_ask_is_at_one", "move", "MANAGERS=3 STARTS=2 VERSIONS=2"),
    ("an_instance_that_moves_and_commits_through_two_deaths", "move", "VERSIONS=3 DEATHS=2 DELETES"),
    ("an_instance_that_runs_while_it_is_passed_on", "move", "MANAGERS=3 STARTS=3 VERSIONS=1"),
    ("an_instance_that_commits_where_it_is_passed_on_to", "move",
     "MANAGERS=3 STARTS=4 VERSIONS=2 STOPPED_ONLY DEATHS=1 DELETES"),
]
REACHED = [
    ("k1_comes_into_being", "link", "K1"),
    ("k2_with_a_named_key_comes_into_being", "link", "K2_NAMED"),
    ("k2_with_an_enrolled_key_comes_into_being", "link", "K2_ENROLLED"),
    ("k2_comes_into_being_under_an_operator_too", "link", "K2_ENROLLED OPERATOR"),
    ("two_starts_come_into_being", "peer", ""),
    ("two_sessions_are_resumed", "resume", ""),
    ("two_holders_commit_one_after_the_other", "commit", "RECORDS=9"),
    ("two_holders_commit_at_an_extended_anchor", "commit", "RECORDS=9 EXTEND"),
    ("a_record_older_than_what_was_answered_is_refused", "commit", "RECORDS=8 REFUSED"),
    ("a_second_manager_answers_and_the_record_of_the_first_is_lost", "commit", "RECORDS=9 FORKED"),
    ("a_copy_that_was_cut_off_comes_to_its_limit", "commit", "RECORDS=7 LEASES AT_LIMIT"),
    ("a_reset_is_leased", "commit", "RECORDS=7 LEASES RESET"),
    ("two_holders_commit_at_an_honest_host", "commit", "RECORDS=10 HONEST"),
    ("a_crash_before_the_store_is_survived", "commit", "RECORDS=10 HONEST CRASHED=BEFORE_STORE"),
    ("a_crash_before_the_anchor_moves_is_survived", "commit", "RECORDS=10 HONEST CRASHED=BEFORE_MOVE"),
    ("a_crash_that_loses_the_move_is_survived", "commit", "RECORDS=10 HONEST CRASHED=MOVE_LOST"),
    ("a_crash_after_the_move_is_survived", "commit", "RECORDS=10 HONEST CRASHED=MOVE_UNSEEN"),
    ("a_crash_while_the_found_record_is_anchored_is_survived", "commit", "RECORDS=10 HONEST CRASHED=WHILE_FIRST"),
    ("a_crash_before_the_start_record_is_anchored_is_survived", "commit", "RECORDS=10 HONEST CRASHED=WHILE_STARTING"),
    ("a_crash_between_records_is_survived", "commit", "RECORDS=10 HONEST CRASHED=WHILE_SERVING"),
    ("an_export_is_taken_back_and_another_one_taken_over", "export", ""),
    ("a_start_goes_on_from_what_the_one_before_exported", "export", "SNAPSHOTS GOAL=WENT_ON"),
    ("two_snapshots_are_loaded_one_of_them_while_an_export_is_open", "export", "SNAPSHOTS LOADS=2 GOAL=LOADED_OPEN"),
    ("a_candidate_takes_over_and_the_instance_comes_home", "move", "VERSIONS=2"),
    ("a_holder_is_declared_dead_and_a_candidate_takes_over", "move", "VERSIONS=2 DEATHS=1 DELETES GOAL=DIED"),
    ("an_instance_is_deleted_before_it_was_confirmed", "move", "VERSIONS=2 DELETES GOAL=DELETED_UNCONFIRMED"),
    ("an_instance_is_passed_on_before_it_was_confirmed", "move",
     "MANAGERS=3 STARTS=3 VERSIONS=1 STOPPED_ONLY DELETES GOAL=PASSED_ON"),
]
# What the threat model says does not hold, and what was left out of a protocol on purpose
BROKEN = [
    ("k2_with_a_named_key_is_the_operators", "link", "K2_NAMED OPERATOR"),
    ("a_front_end_can_be_shown_another_tpm_by_the_operator", "link", "K2_ENROLLED OPERATOR FRONT_RELIES"),
    ("the_manager_does_not_know_who_is_at_the_other_end_of_k1", "link", "K1 MANAGER_RELIES"),
    ("a_k1_that_the_relay_makes_is_no_secret", "link", "K1 LITERAL"),
    ("k1_whose_share_came_through_the_relay_is_no_secret", "link", "K1 SHARE_FROM_RELAY"),
    ("k2_whose_front_share_the_manager_did_not_tell_is_no_secret", "link", "K2_NAMED SHARE_FROM_RELAY"),
    ("k1_without_roles_reflects", "link", "K1 NO_ROLES"),
    ("k2_without_roles_reflects", "link", "K2_NAMED NO_ROLES"),
    ("enrolled_k2_without_roles_reflects", "link", "K2_ENROLLED OPERATOR NO_ROLES"),
    ("k1_without_the_shares_in_h_agrees_on_other_shares", "link", "K1 NO_SHARES"),
    ("k2_without_the_shares_in_h_agrees_on_other_shares", "link", "K2_ENROLLED OPERATOR NO_SHARES"),
    ("k1_without_the_mac_over_h_talks_to_nobody", "link", "K1 NO_FINISH"),
    ("k2_without_the_mac_over_h_talks_to_nobody", "link", "K2_NAMED NO_FINISH"),
    ("k2_without_the_instance_id_in_h_crosses_vms", "link", "K2_ENROLLED OPERATOR ONE_FRONT_KEY NO_ID"),
    ("k2_without_the_epoch_in_h_disagrees_on_it", "link", "K2_ENROLLED OPERATOR NO_EPOCH"),
    ("k2_without_the_start_number_in_h_disagrees_on_it", "link", "K2_ENROLLED OPERATOR NO_START"),
    ("a_peer_session_without_roles_reflects", "peer", "NO_ROLES"),
    ("a_peer_session_without_the_shares_has_a_man_in_the_middle", "peer", "NO_SHARES"),
    ("a_peer_session_without_the_instance_id_crosses_instances", "peer", "NO_ID"),
    ("a_peer_session_without_the_start_number_crosses_starts", "peer", "NO_START"),
    ("a_peer_session_without_the_holder_key_records_another", "peer", "NO_HOLDER"),
    ("a_peer_session_without_the_ledger_base_disagrees_on_it", "peer", "NO_BASE"),
    ("reports_that_are_not_targeted_admit_anybody", "peer", "UNTARGETED"),
    ("admission_by_signer_admits_anybody", "peer", "ANY_MRENCLAVE"),
    ("resuming_by_the_root_key_alone_lets_an_old_holder_in", "resume", "ONLY_ROOT_KEY"),
    ("resuming_without_the_root_key_lets_anybody_in", "resume", "NO_ROOT_KEY"),
    ("resuming_without_roles_reflects", "resume", "NO_ROLES"),
    ("resuming_without_the_mac_talks_to_nobody", "resume", "NO_MAC"),
    ("looking_the_holder_up_only_once_lets_a_dead_one_in", "resume", "STALE_RECORD"),
    ("a_counter_for_an_anchor_undoes_what_was_answered", "commit", "RECORDS=8 COUNTER MANY"),
    ("taking_the_newest_record_that_there_is_undoes_what_was_answered", "commit", "RECORDS=8 SEARCH"),
    ("an_answer_before_the_anchor_is_undone", "commit", "RECORDS=8 ANSWER_BEFORE_ANCHOR"),
    ("an_answer_before_the_store_is_undone", "commit", "RECORDS=8 HONEST ANSWER_BEFORE_STORE"),
    ("an_answer_on_the_word_of_the_host_is_undone", "commit", "RECORDS=8 HOSTS_WORD"),
    ("a_state_loaded_by_its_version_alone_undoes_what_was_answered", "commit",
     "RECORDS=10 NO_DIGEST ENCLAVES=3 VERSIONS=1 FORGET"),
    ("without_a_start_record_two_managers_answer", "commit", "RECORDS=8 NO_START_RECORD"),
    ("keys_before_the_anchor_go_to_an_older_state", "commit", "RECORDS=8 KEYS_BEFORE_ANCHOR"),
    ("a_death_without_an_epoch_lets_the_dead_commit", "commit", "RECORDS=8 NO_EPOCH"),
    ("two_records_in_flight_lock_out_after_a_crash", "commit", "RECORDS=8 HONEST TWO_IN_FLIGHT"),
    ("an_anchor_before_the_store_locks_out_after_a_crash", "commit", "RECORDS=8 HONEST ANCHOR_BEFORE_STORE"),
    ("a_late_extension_locks_out_after_a_crash", "commit", "RECORDS=8 HONEST LATE EXTEND"),
    ("a_copy_without_a_lease_is_not_bounded", "commit", "RECORDS=6 LEASES LEASE_UNBOUNDED"),
    ("a_lease_without_a_look_at_the_anchor_bounds_nothing", "commit", "RECORDS=6 LEASES LEASE_FROM_MEMORY"),
    ("a_lease_that_counts_from_its_arrival_is_longer", "commit", "RECORDS=6 LEASES LEASE_FROM_ARRIVAL"),
    ("a_reset_that_nobody_was_asked_for_passes_the_bound", "commit", "RECORDS=6 LEASES RESET_UNASKED"),
    ("an_export_that_no_commit_ends_forks_the_tpm", "export", "OPEN_ANSWERS"),
    ("an_export_of_any_version_brings_an_old_one_back", "export", "NO_VERSION"),
    ("an_export_that_nobody_records_forks_the_tpm", "export", "UNASKED"),
    ("a_start_that_answers_without_a_commit_is_gone_on_from_before_it", "export", "SNAPSHOTS START_ANSWERS"),
    ("an_export_of_any_epoch_brings_back_what_an_owner_ended", "export", "SNAPSHOTS NO_EPOCH"),
    ("a_load_of_any_era_brings_back_what_an_owner_ended", "export", "SNAPSHOTS LOADS=1 NO_ERA"),
    ("a_load_that_is_said_as_a_commit_is_not_seen", "export", "SNAPSHOTS LOADS=1 UNCOUNTED"),
    ("a_load_that_is_not_committed_is_not_seen", "export", "SNAPSHOTS LOADS=1 LOAD_IN_MEMORY"),
    ("a_load_without_a_version_of_its_own_leaves_an_export_open", "export", "SNAPSHOTS LOADS=1 LOAD_KEEPS_VERSION"),
    ("a_load_without_floors_says_a_counter_twice", "export", "SNAPSHOTS LOADS=1 NO_FLOORS"),
    ("a_move_that_is_told_before_the_anchor_is_undone", "move", "VERSIONS=2 ANSWER_BEFORE_ANCHOR"),
    ("a_key_that_is_erased_before_the_other_record_is_lost", "move", "VERSIONS=2 CONFIRM_EARLY"),
    ("a_confirmation_of_an_earlier_stay_loses_the_instance", "move", "VERSIONS=2 UNCONFIRMED_START"),
    ("a_move_that_any_member_is_told_goes_to_two", "move", "MANAGERS=3 STARTS=2 VERSIONS=1 ANY_MEMBER"),
    ("a_move_of_any_version_brings_an_old_one_back", "move", "VERSIONS=2 NO_VERSION"),
    ("a_move_of_any_epoch_makes_a_holder_of_one_that_is_over", "move", "VERSIONS=2 DEATHS=1 NO_EPOCH"),
    ("a_move_of_any_start_makes_a_holder_of_an_earlier_stay", "move", "VERSIONS=2 NO_START"),
    ("a_candidate_of_an_earlier_look_becomes_a_holder_of_an_epoch_that_is_over", "move", "VERSIONS=2 DEATHS=1 ANY_LOOK"),
    ("a_row_that_comes_without_a_start_of_its_own_is_not_confirmed", "move", "VERSIONS=2 SAME_START_THERE"),
    ("a_holder_that_a_move_does_not_fence_commits_on", "move", "VERSIONS=2 NO_FENCE"),
    ("a_move_that_is_told_once_is_lost_in_a_crash", "move", "VERSIONS=2 TOLD_ONCE"),
    ("a_deletion_without_a_tombstone_is_undone", "move", "VERSIONS=2 DELETES NO_TOMBSTONE"),
    ("a_deletion_where_it_has_moved_from_is_undone", "move", "VERSIONS=2 DELETES DELETE_MOVED"),
    ("a_deletion_that_is_not_confirmed_leaves_a_key", "move", "VERSIONS=2 DELETES CONFIRM_LIVING"),
    ("a_member_that_has_passed_it_on_and_confirms_no_more_leaves_a_key", "move",
     "MANAGERS=3 STARTS=3 VERSIONS=1 STOPPED_ONLY CONFIRM_LIVING"),
    ("a_member_that_confirms_whatever_it_has_passed_on_once_does_not_fetch_it_again", "move", "VERSIONS=2 ASKS_BY_STATE"),
]


def run(directory, *command):
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
    return result.returncode, result.stdout + result.stderr


def search(model, defined, optimise):
    """What pan says after it has looked at every state."""
    directory = tempfile.mkdtemp(prefix="vtpm-model-")
    begin = time.monotonic()
    try:
        flags = ["-D" + word for word in defined.split()]
        status, output = run(directory, "spin", "-a", *flags, str(MODELS / (model + ".pml")))
        tap.require(status == 0, f"spin: {output}")
        status, output = run(directory, "gcc", optimise, "-w", "-DSAFETY", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c")
        tap.require(status == 0, f"gcc: {output}")
        status, output = run(directory, "./pan", f"-m{DEPTH}")
    finally:
        shutil.rmtree(directory)
    tap.require(status >= 0, f"pan died of signal {-status}: {output}")
    states = re.search(r"^\s*(\d+) states, stored", output, re.MULTILINE)
    tap.require(states, f"pan counted nothing: {output}")
    tap.note(f"{model} {defined or '(whole)'}: {states.group(1)} states, {time.monotonic() - begin:.1f} s with compiling")
    return output


def require_exhaustive(output):
    """Every state was looked at, none of them only as a hash."""
    tap.require("Full statespace search for" in output, f"not a full search: {output}")
    for fault in ("max search depth too small", "Search not completed", "out of memory", "MEMLIM", "hash-compact",
                  "Bit statespace"):
        tap.require(fault not in output, f"{fault}: {output}")
    tap.require(re.search(r"assertion violations\s*\+", output), f"assertions were not looked at: {output}")


def holds(model, defined):
    output = search(model, defined, "-O1")
    tap.require("errors: 0" in output, f"a property does not hold: {output}")
    require_exhaustive(output)


def is_violated(model, defined):
    output = search(model, defined, "-O0")  # the search is short, the compiling is not
    tap.require(re.search(r"errors: [1-9]", output) and "assertion violated" in output, f"no error was found: {output}")


def is_reached(model, defined):
    is_violated(model, defined + " REACHABLE")


def register(rows, judge, word):
    for name, model, defined in rows:
        if word not in name:
            continue

        def function(model=model, defined=defined):
            judge(model, defined)

        function.__name__ = name
        tap.test(function)


def main():
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    register(HOLDS, holds, word)
    if tap.LONG:
        register(HOLDS_LONG, holds, word)
    register(REACHED, is_reached, word)
    register(BROKEN, is_violated, word)
    os.environ["LC_ALL"] = "C"
    tap.run()


main()
