{# The sum of `difference` is at most `tolerance` times the sum of `whole`. Passes if PropelAuth has no figure. #}
{% test agrees_with_propel_auth(model, difference, whole, tolerance) %}
select sum({{ difference }}) as difference, sum({{ whole }}) as whole
from {{ model }}
having abs(sum({{ difference }})) > {{ tolerance }} * sum({{ whole }})
{% endtest %}
