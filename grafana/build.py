#!/usr/bin/env python3
"""Writes dashboards/*.json: what each panel asks, in a form that can be reviewed. Run it after a change; a test compares."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ROUTE = 'route=~"$route"'
MODEL = 'model=~"$model"'
GEN_AI = 'gen_ai_request_model=~"$model"'
JUDGED = 'outcome=~"usable|unusable|failed|broken"'
TRIED = 'result=~"usable|unusable|error"'
GOOD_BAD = [(None, "red"), (0.9, "orange"), (0.97, "green")]


def rate(series, by="", window="$__rate_interval"):
    return f"sum by ({by}) (rate({series}[{window}]))" if by else f"sum(rate({series}[{window}]))"


def grow(series, by="", window="$__range"):
    return f"sum by ({by}) (increase({series}[{window}]))" if by else f"sum(increase({series}[{window}]))"


def share(part, whole):
    """A share that is absent, not 0 / 0, where nothing happened."""
    return f"{part} / ({whole} > 0)"


def some(series):
    """Of many series that are there at zero, those that are not."""
    return f"{series} > 0"


def quantile(q, series, by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({series}[$__rate_interval])))"


def target(expr, legend="", instant=False, format="time_series"):
    made = {"datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto", "format": format, "refId": "A"}
    made["instant" if instant else "range"] = True
    return made


def panel(kind, title, question, unit, targets, width=12, height=8, **more):
    steps = [{"color": color, "value": value} for value, color in more.pop("steps", [(None, "green")])]
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}, "mappings": more.pop("mappings", [])}
    for key in ("min", "max", "decimals", "noValue"):
        if key in more:
            defaults[key] = more.pop(key)
    if kind == "timeseries":
        custom = {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 12, "showPoints": "never", "spanNulls": False}
        custom |= more.pop("custom", {})
        defaults |= {"custom": custom, "color": {"mode": "palette-classic"}}
    elif kind in ("stat", "gauge", "bargauge"):
        defaults["color"] = {"mode": "thresholds"}
    for index, one in enumerate(targets):
        one["refId"] = chr(ord("A") + index)
    return {
        "type": kind, "title": title, "description": question, "datasource": SOURCE, "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": OPTIONS[kind] | more.pop("options", {}), "gridPos": {"w": width, "h": height}, **more,
    }


OPTIONS = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto", "wideLayout": True,
             "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
    "bargauge": {"displayMode": "gradient", "orientation": "horizontal", "showUnfilled": True, "minVizWidth": 8, "minVizHeight": 16, "valueMode": "color",
                 "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "state-timeline": {"showValue": "auto", "rowHeight": 0.8, "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}},
}
STACKED = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40, "lineWidth": 1}


def stat(title, question, unit, expr, legend="", width=6, height=6, **more):
    return panel("stat", title, question, unit, [target(expr, legend, instant=True)], width, height, **more)


def lines(title, question, unit, *pairs, **more):
    return panel("timeseries", title, question, unit, [target(expr, legend) for expr, legend in pairs], **more)


def bars(title, question, unit, expr, legend, **more):
    return panel("bargauge", title, question, unit, [target(expr, legend, instant=True)], **more)


def table(title, question, unit, expr, hide=("Time",), rename=None, **more):
    tidy = [{"id": "organize", "options": {"excludeByName": {name: True for name in hide}, "renameByName": rename or {"Value": "count"}, "indexByName": {}}}]
    return panel("table", title, question, unit, [target(expr, instant=True, format="table")], transformations=tidy, **more)


def variable(name, label, query):
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "hide": 0, "options": [], "regex": "", "skipUrlSync": False,
    }


VARIABLES = {
    "route": variable("route", "Route", "label_values(spectra_requests_total, route)"),
    "model": variable("model", "Model", "label_values(spectra_asks_total, model)"),
}
DATASOURCE = {
    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1, "regex": "", "hide": 0,
    "current": {"text": "Prometheus", "value": "spectra-prometheus"}, "includeAll": False, "multi": False, "options": [], "skipUrlSync": False,
}


def dashboard(uid, title, about, variables, rows):
    panels, y, number = [], 0, 1
    for name, members in rows:
        panels.append({"type": "row", "id": number, "title": name, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y, x, deepest, number = y + 1, 0, 0, number + 1
        for member in members:
            place = member["gridPos"]
            if x + place["w"] > 24:
                x, y, deepest = 0, y + deepest, 0
            panels.append(member | {"id": number, "gridPos": {"x": x, "y": y, **place}})
            x, deepest, number = x + place["w"], max(deepest, place["h"]), number + 1
        y += deepest
    others = {"asDropdown": False, "icon": "external link", "includeVars": True, "keepTime": True, "tags": ["spectra"], "targetBlank": False, "title": "Spectra", "tooltip": "", "type": "dashboards", "url": ""}
    return {
        "uid": f"spectra-{uid}", "title": f"Spectra / {title}", "description": about, "tags": ["spectra"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "fiscalYearStartMonth": 0,
        "liveNow": False, "weekStart": "", "links": [others], "annotations": {"list": []}, "timepicker": {},
        "templating": {"list": [DATASOURCE] + [VARIABLES[name] for name in variables]}, "panels": panels,
    }


def usable_final(window="$__range", by="route"):
    return share(grow(f'spectra_requests_total{{{ROUTE},outcome="usable"}}', by, window), grow(f"spectra_requests_total{{{ROUTE},{JUDGED}}}", by, window))


def usable_first(window="$__range", by="route"):
    return share(grow(f'spectra_first_tries_total{{{ROUTE},result="usable"}}', by, window), grow(f"spectra_first_tries_total{{{ROUTE},{TRIED}}}", by, window))


def overview():
    net = f"{grow(f'spectra_saved_usd_total{{{ROUTE}}}')} - {grow(f'spectra_extra_usd_total{{{ROUTE}}}')} - scalar({grow('spectra_machine_usd_total')})"
    return dashboard("overview", "Overview", "Of the requests each route took, how many got a usable answer, and what did the gateway save?", ["route"], [
        ("Usable answers", [
            stat("Usable in the end", "Of the requests this route took, how many got a usable answer in the end?", "percentunit", usable_final(), "{{route}}", 12, 7, steps=GOOD_BAD, max=1, decimals=1),
            stat("Usable at the first try", "How many were usable without a second attempt at any model?", "percentunit", usable_first(), "{{route}}", 12, 7, steps=GOOD_BAD, max=1, decimals=1),
            lines("First try against final", "What do repair, re-asking and escalation add to what the models give by themselves?", "percentunit",
                  (usable_final("$__rate_interval", "route"), "{{route}} final"), (usable_first("$__rate_interval", "route"), "{{route}} first try"), max=1),
            lines("How requests end", "Which endings make up the rest?", "reqps", (rate(f"spectra_requests_total{{{ROUTE}}}", "outcome"), "{{outcome}}"), custom=STACKED),
        ]),
        ("Traffic", [
            lines("Requests by route", "Who takes the traffic?", "reqps", (rate(f"spectra_requests_total{{{ROUTE}}}", "route"), "{{route}}"), custom=STACKED),
            lines("Escalations", "How often does a model hand over to the next, and why?", "reqps", (some(rate("spectra_escalations_total", "from, to, reason")), "{{from}} to {{to}}: {{reason}}")),
            lines("Time to the whole answer", "How long do clients wait?", "s", *[(quantile(q, f"gen_ai_server_request_duration_seconds_bucket{{{ROUTE}}}", "route"), f"{{{{route}}}} p{int(q * 100)}") for q in (0.5, 0.95)]),
            lines("Time to the first token", "How long until clients read something?", "s", *[(quantile(q, f"gen_ai_server_time_to_first_token_seconds_bucket{{{ROUTE}}}", "route"), f"{{{{route}}}} p{int(q * 100)}") for q in (0.5, 0.95)]),
            lines("Tokens", "How much do models read and write?", "short", (rate("gen_ai_client_token_usage_sum", "gen_ai_request_model, gen_ai_token_type"), "{{gen_ai_request_model}} {{gen_ai_token_type}} per second")),
            stat("Requests in flight", "How busy is the gateway now?", "short", "sum(spectra_in_flight_requests)", "in flight"),
            stat("Requests", "How many requests in this time?", "short", grow(f"spectra_requests_total{{{ROUTE}}}"), "requests", decimals=0),
        ]),
        ("Money", [
            stat("Net savings", "What did routing save against sending everything to the compared backend, after this machine's own cost?", "currencyUSD", net, "net", 6, 7, steps=[(None, "red"), (0, "green")], decimals=2),
            stat("Spent on tokens", "What did the attempts cost by the configured prices?", "currencyUSD", grow(f"spectra_cost_usd_total{{{ROUTE}}}"), "spent", 6, 7, decimals=2),
            lines("Cost per hour", "How fast is money spent, and what would it have been?", "currencyUSD",
                  (f'3600 * {rate(f"spectra_cost_usd_total{{{ROUTE}}}", "model")}', "{{model}}"), (f'3600 * {rate(f"spectra_compared_usd_total{{{ROUTE}}}")}', "everything compared"), height=7),
        ]),
    ])


def routing():
    predicted = f'spectra_router_predictions_total{{{ROUTE},observed="usable"}}'
    return dashboard("routing", "Routing", "Is the score a good guide, and what does it decide?", ["route"], [
        ("Decisions", [
            lines("Requests by reason", "Why did requests take their route?", "reqps", (some(rate(f"spectra_router_decisions_total{{{ROUTE}}}", "route, reason")), "{{route}}: {{reason}}"), custom=STACKED),
            lines("Difficulty", "How hard are requests, by the route they took?", "percentunit", *[(quantile(q, f"spectra_router_difficulty_bucket{{{ROUTE}}}", "route"), f"{{{{route}}}} p{int(q * 100)}") for q in (0.1, 0.5, 0.9)], max=1, min=0),
            # Format heatmap: Grafana takes the buckets apart, which count everything below them.
            panel("bargauge", "Difficulty histogram", "Where do requests lie, and where does the threshold cut?", "short",
                  [target(f"sum by (le) (increase(spectra_router_difficulty_bucket{{{ROUTE}}}[$__range]))", "{{le}}", instant=True, format="heatmap")], height=10),
            table("Escalation paths", "Which model hands over to which, and why?", "short", f"{grow('spectra_escalations_total', 'from, to, reason')} > 0", height=10),
        ]),
        ("Calibration", [
            bars("Observed usable rate by predicted tenth", "Of answers predicted to be usable with this chance, how many were? A bar close to its label is a good prediction.", "percentunit",
                 share(grow(predicted, "predicted"), grow(f"spectra_router_predictions_total{{{ROUTE}}}", "predicted")), "predicted up to {{predicted}}", max=1, min=0, height=10, steps=[(None, "blue")]),
            bars("Predictions by tenth", "How many answers stand behind each bar?", "short", grow(f"spectra_router_predictions_total{{{ROUTE}}}", "predicted"), "predicted up to {{predicted}}", height=10, steps=[(None, "blue")]),
        ]),
        ("The gateway's own time", [
            lines("Own time per request, p99", "What does the gateway add to a request?", "s", (quantile(0.99, "spectra_overhead_seconds_bucket", "phase"), "{{phase}}")),
            lines("Own time per request, mean", "Where does it go on average?", "s", (f'{rate("spectra_overhead_seconds_sum", "phase")} / ({rate("spectra_overhead_seconds_count", "phase")} > 0)', "{{phase}}"), custom=STACKED),
        ]),
    ])


def answers():
    return dashboard("answers", "Answers", "What is wrong with answers, and what mends them?", ["model", "route"], [
        ("What models give", [
            bars("Attempts by verdict", "What came of asking?", "short", grow(f"spectra_attempts_total{{{MODEL},{ROUTE}}}", "model, verdict"), "{{model}}: {{verdict}}", height=10, steps=[(None, "blue")]),
            lines("Flaws", "What was wrong with answers?", "reqps", (some(rate(f"spectra_flaws_total{{{MODEL}}}", "model, flaw")), "{{model}}: {{flaw}}"), custom=STACKED, height=10),
        ]),
        ("What mends them", [
            bars("Repairs by stage", "Which repair without a model brought an answer through?", "short", some(grow("spectra_repairs_total", "stage, result")), "{{stage}}: {{result}}", height=10, steps=[(None, "purple")]),
            lines("Second attempts", "How often is a model asked again, asked to continue, or the next one asked?", "reqps", (rate(f'spectra_asks_total{{{MODEL},why!="first"}}', "model, why"), "{{model}}: {{why}}"), height=10),
            lines("Attempts per request", "How many attempts does an answer take?", "short", (f'{rate(f"spectra_attempts_total{{{ROUTE}}}", "route")} / ({rate(f"spectra_first_tries_total{{{ROUTE}}}", "route")} > 0)', "{{route}}"), min=1),
            lines("Verification of delivered answers", "What did clients get?", "reqps", (rate(f"spectra_verified_total{{{ROUTE}}}", "verified"), "{{verified}}"), custom=STACKED),
        ]),
        ("What callers say", [
            lines("Feedback", "Do callers agree that answers are usable?", "reqps", (rate(f"spectra_feedback_total{{{ROUTE}}}", "route, usable"), "{{route}} usable: {{usable}}")),
            lines("Streams broken off", "How often was an answer cut after it had begun?", "reqps", (rate(f'spectra_requests_total{{{ROUTE},outcome="broken"}}', "route"), "{{route}}")),
        ]),
    ])


def engine():
    slots = f"sum by (model) (spectra_engine_slots{{{MODEL}}})"
    return dashboard("engine", "Engine", "Is the local model up, and how full is it?", ["model"], [
        ("Now", [
            stat("Worker", "Is the model loaded and answering?", "short", f"max by (model) (spectra_engine_up{{{MODEL}}})", "{{model}}", steps=[(None, "red"), (1, "green")],
                 mappings=[{"type": "value", "options": {"0": {"text": "down", "color": "red", "index": 0}, "1": {"text": "up", "color": "green", "index": 1}}}]),
            stat("Slots in use", "How much of its capacity is used?", "percentunit", f"sum by (model) (spectra_engine_slots_busy{{{MODEL}}}) / ({slots} > 0)", "{{model}}", steps=[(None, "green"), (0.8, "orange"), (1, "red")], max=1),
            stat("Waiting", "How many requests wait for a slot?", "short", f"sum by (model) (spectra_engine_queue{{{MODEL}}})", "{{model}}", steps=[(None, "green"), (4, "orange"), (16, "red")]),
            stat("Restarts", "Did the worker die in this time?", "short", grow(f"spectra_engine_restarts_total{{{MODEL}}}", "model"), "{{model}}", steps=[(None, "green"), (1, "red")], decimals=0),
        ]),
        ("Over time", [
            lines("Slots and queue", "When is it full?", "short", (f"sum by (model) (spectra_engine_slots_busy{{{MODEL}}})", "{{model}} busy"), (f"sum by (model) (spectra_engine_queue{{{MODEL}}})", "{{model}} waiting"), (slots, "{{model}} slots"), min=0),
            lines("KV cache in use", "How close is its memory to full?", "percentunit", (f"max by (model) (spectra_engine_kv_used_ratio{{{MODEL}}})", "{{model}}"), max=1, min=0),
            lines("Tokens per second", "How fast does it read and write?", "short", (rate(f"spectra_engine_generated_tokens_total{{{MODEL}}}", "model"), "{{model}} generated"), (rate(f"spectra_engine_prompt_tokens_total{{{MODEL}}}", "model"), "{{model}} prompt")),
            lines("Time to first chunk of local models", "How long until it writes?", "s", *[(quantile(q, f'gen_ai_client_operation_time_to_first_chunk_seconds_bucket{{{GEN_AI},gen_ai_provider_name="llama_cpp"}}', "gen_ai_request_model"), f"{{{{gen_ai_request_model}}}} p{int(q * 100)}") for q in (0.5, 0.95)]),
        ]),
        ("The gateway process", [
            lines("Memory", "Do the gateway, its workers or their use of GPUs grow?", "bytes", ("sum by (instance) (process_resident_memory_bytes)", "{{instance}}"), (f"max by (model) (spectra_engine_memory_bytes{{{MODEL}}})", "worker of {{model}}"), (f"max by (gpu) (spectra_engine_gpu_memory_bytes{{{MODEL}}} - spectra_engine_gpu_memory_free_bytes{{{MODEL}}})", "{{gpu}}"), width=8),
            lines("Open files", "Does it leak connections?", "short", ("sum by (instance) (process_open_fds)", "{{instance}}"), width=8),
            lines("Ledger", "Does the ledger keep up?", "short", ("sum(spectra_ledger_queue)", "waiting"), (rate("spectra_ledger_rows_total"), "rows per second"), (rate("spectra_ledger_dropped_total"), "dropped per second"), width=8),
            stat("Config file", "Is the config in the file the one in force, or was its last reload rejected?", "short", "min(spectra_config_last_reload_successful)", "config", 8, 8, steps=[(None, "red"), (1, "green")],
                 mappings=[{"type": "value", "options": {"0": {"text": "rejected", "color": "red", "index": 0}, "1": {"text": "in force", "color": "green", "index": 1}}}]),
            panel("state-timeline", "Config in force", "Which config was in force when?", "short", [target("max by (hash) (spectra_config_info)", "{{hash}}")], 16, 8,
                  mappings=[{"type": "value", "options": {"0": {"text": "earlier", "color": "text", "index": 0}, "1": {"text": "in force", "color": "green", "index": 1}}}]),
        ]),
    ])


def upstreams():
    states = [{"type": "value", "options": {"0": {"text": "closed", "color": "green", "index": 0}, "1": {"text": "probing", "color": "orange", "index": 1}, "2": {"text": "open", "color": "red", "index": 2}}}]
    return dashboard("upstreams", "Upstreams", "Which model or provider is failing, and how is the gateway coping?", ["model"], [
        ("Health", [
            panel("state-timeline", "Circuit breakers", "Which backend was left alone, and when?", "short", [target(f"max by (model) (spectra_breaker_state{{{MODEL}}})", "{{model}}")], 24, 6, mappings=states),
            lines("Errors by cause", "What goes wrong between us and them?", "reqps", (some(rate(f"spectra_backend_errors_total{{{MODEL}}}", "model, error")), "{{model}}: {{error}}"), custom=STACKED),
            lines("Attempts that gave an answer", "What share of attempts came back at all?", "percentunit",
                  (share(rate(f'spectra_attempts_total{{{MODEL},verdict!~"error|cancelled"}}', "model"), rate(f'spectra_attempts_total{{{MODEL},verdict!="cancelled"}}', "model")), "{{model}}"), max=1, min=0),
        ]),
        ("Speed", [
            lines("Time of an attempt", "How long do models take?", "s", *[(quantile(q, f"gen_ai_client_operation_duration_seconds_bucket{{{GEN_AI}}}", "gen_ai_request_model"), f"{{{{gen_ai_request_model}}}} p{int(q * 100)}") for q in (0.5, 0.95)]),
            lines("Time to the first chunk", "How long until models begin?", "s", *[(quantile(q, f"gen_ai_client_operation_time_to_first_chunk_seconds_bucket{{{GEN_AI}}}", "gen_ai_request_model"), f"{{{{gen_ai_request_model}}}} p{int(q * 100)}") for q in (0.5, 0.95)]),
        ]),
        ("Use", [
            lines("Attempts", "Who is asked how often?", "reqps", (rate(f"spectra_asks_total{{{MODEL}}}", "model"), "{{model}}"), custom=STACKED),
            lines("Tokens per attempt", "How long are prompts and answers on average?", "short", (share(rate(f"gen_ai_client_token_usage_sum{{{GEN_AI}}}", "gen_ai_request_model, gen_ai_token_type"), rate(f"gen_ai_client_token_usage_count{{{GEN_AI}}}", "gen_ai_request_model, gen_ai_token_type")), "{{gen_ai_request_model}} {{gen_ai_token_type}}")),
            lines("Answers without usage", "Which models do not count their tokens?", "reqps", (rate(f"spectra_usage_missing_total{{{MODEL}}}", "model"), "{{model}}")),
            lines("Errors sent to clients", "What do clients see of all this?", "reqps", (some(rate("spectra_errors_total", "status, code")), "{{status}} {{code}}"), custom=STACKED),
        ]),
    ])


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, made in (("overview", overview()), ("routing", routing()), ("answers", answers()), ("engine", engine()), ("upstreams", upstreams())):
        path, text = HERE / "dashboards" / f"{name}.json", json.dumps(made, indent=2) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"run grafana/build.py: out of date: {', '.join(stale)}")


if __name__ == "__main__":
    main()
