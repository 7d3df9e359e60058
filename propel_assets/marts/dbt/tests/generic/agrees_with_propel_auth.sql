{# The sum of `differing` is at most `tolerance` times the sum of `whole`: null where PropelAuth has no figure, and then it holds. #}
{% test agrees_with_propel_auth(model, differing, whole, tolerance) %}
select sum({{ differing }}) as differing, sum({{ whole }}) as whole
from {{ model }}
having abs(sum({{ differing }})) > {{ tolerance }} * sum({{ whole }})
{% endtest %}
