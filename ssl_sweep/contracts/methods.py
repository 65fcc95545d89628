"""The contract of methods."""

from ssl_sweep.contracts import method_class, states, steps
from ssl_sweep.contracts.contract import Check, Contract
from ssl_sweep.contracts.method_class import MethodPlugin
from ssl_sweep.knobs import methods

FIRST_CHECKS = (Check(method_class.it_has_views_and_a_loss),)
DECLARATION_CHECKS = (
    Check(method_class.its_knobs_have_types_and_defaults_and_texts),
    Check(method_class.no_attribute_is_nearly_a_declaration),
    Check(method_class.groups_of_a_batch_are_knobs, (method_class.its_knobs_have_types_and_defaults_and_texts,)),
    Check(method_class.it_can_be_built, (method_class.its_knobs_have_types_and_defaults_and_texts,)),
    Check(method_class.it_can_be_built_on_the_meta_device, (method_class.it_can_be_built,)),
    Check(method_class.its_declarations_have_their_types, (method_class.it_can_be_built,)),
)
_LOSS, _GRADIENTS = steps.the_loss_is_one_finite_fp32_number, steps.gradients_reach_the_encoder
_NEXT, _SEED = steps.the_next_step_has_a_finite_loss, steps.the_seed_decides_the_loss
_VIEWS, _STATE = steps.views_draw_from_the_generator_alone, states.all_that_matters_is_in_the_state
STEP_CHECKS = (
    Check(_LOSS, (method_class.it_has_views_and_a_loss, method_class.it_can_be_built)),
    Check(_GRADIENTS, (_LOSS,)),
    Check(steps.a_batch_of_two_trains_the_encoder, (_GRADIENTS,)),
    Check(steps.an_odd_batch_trains_the_encoder, (_GRADIENTS,)),
    Check(steps.what_is_not_trained_gets_no_gradient, (_GRADIENTS,)),
    Check(_NEXT, (_GRADIENTS, method_class.its_declarations_have_their_types)),
    Check(steps.images_without_labels_have_a_finite_loss, (_LOSS,)),
    Check(_VIEWS, (_LOSS,)),
    Check(steps.a_share_of_the_batch_has_the_random_numbers_of_its_rows, (_VIEWS,)),
    Check(steps.the_loss_draws_nothing, (_LOSS,)),
    Check(_SEED, (_VIEWS, steps.the_loss_draws_nothing)),
    Check(steps.bf16_autocast_leaves_a_finite_fp32_loss, (_GRADIENTS, steps.the_loss_draws_nothing)),
    Check(_STATE, (_NEXT, _VIEWS, steps.the_loss_draws_nothing)),
    Check(states.a_resumed_run_ends_as_an_unbroken_one, (_STATE, _SEED)),
)
VISUALIZATION_CHECKS = (Check(steps.a_visualization_is_images, (_VIEWS,)),)


def checks_of(plugin: MethodPlugin) -> tuple[Check, ...]:
    """All checks of a method that pretrains; those of its declarations of another."""
    if not methods.pretrains(plugin.name):
        return DECLARATION_CHECKS
    drawn = VISUALIZATION_CHECKS if hasattr(plugin.method, "visualize") else ()
    return FIRST_CHECKS + DECLARATION_CHECKS + STEP_CHECKS + drawn


METHODS = Contract(method_class.load, checks_of)
