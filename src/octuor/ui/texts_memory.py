"""What the memory page says: by key, in English, French, German, Italian, Spanish."""

from __future__ import annotations

from collections.abc import Mapping

Row = tuple[str, str, str, str, str]

MEMORY: Mapping[str, Row] = {
    "tab_memory": ("Memory", "Mémoire", "Speicher", "Memoria", "Memoria"),
    "memory_answers": ("Answers", "Réponses", "Antworten", "Risposte", "Respuestas"),
    "memory_prompts": ("Prompts", "Questions", "Fragen", "Domande", "Preguntas"),
    "memory_speed": ("tokens/s", "tokens/s", "Token/s", "token/s", "tokens/s"),
    "memory_running": ("Being answered", "En cours", "In Arbeit", "In corso", "En curso"),
    "memory_waiting": ("Waiting", "En attente", "Wartend", "In attesa", "En espera"),
    "memory_taken": (
        "{taken} taken, {left} may still be taken",
        "{taken} pris, {left} encore disponibles",
        "{taken} belegt, {left} noch frei",
        "{taken} occupati, {left} ancora disponibili",
        "{taken} ocupados, {left} aún disponibles",
    ),
    "memory_of_limit": (
        "{taken} of {limit} taken, {left} may still be taken",
        "{taken} sur {limit} pris, {left} encore disponibles",
        "{taken} von {limit} belegt, {left} noch frei",
        "{taken} su {limit} occupati, {left} ancora disponibili",
        "{taken} de {limit} ocupados, {left} aún disponibles",
    ),
    "memory_experts": ("experts", "experts", "Experten", "esperti", "expertos"),
    "memory_others": (
        "attention and other weights",
        "attention et autres poids",
        "Attention und andere Gewichte",
        "attenzione e altri pesi",
        "atención y otros pesos",
    ),
    "memory_cache": (
        "keys and values",
        "clés et valeurs",
        "Schlüssel und Werte",
        "chiavi e valori",
        "claves y valores",
    ),
    "memory_work": (
        "program and work in progress",
        "programme et calculs en cours",
        "Programm und laufende Arbeit",
        "programma e lavoro in corso",
        "programa y trabajo en curso",
    ),
    "memory_headroom": ("headroom", "réserve", "Reserve", "margine", "margen"),
    "memory_grid": (
        "Experts in memory, layer by layer",
        "Experts en mémoire, couche par couche",
        "Experten im Speicher, Schicht für Schicht",
        "Esperti in memoria, strato per strato",
        "Expertos en memoria, capa por capa",
    ),
    "memory_held": (
        "{held} of {all} experts are in memory: {held_bytes} of {all_bytes}.",
        "{held} experts sur {all} sont en mémoire : {held_bytes} sur {all_bytes}.",
        "{held} von {all} Experten sind im Speicher: {held_bytes} von {all_bytes}.",
        "{held} esperti su {all} sono in memoria: {held_bytes} su {all_bytes}.",
        "{held} de {all} expertos están en memoria: {held_bytes} de {all_bytes}.",
    ),
    "memory_mapped": (
        "All {all} experts are mapped, {all_bytes}: the system keeps them in memory while nothing else needs it. With "
        "a limit (--memory) this shows which ones are in.",
        "Les {all} experts sont projetés en mémoire, {all_bytes} : le système les y garde tant que rien d’autre ne la "
        "réclame. Avec une limite (--memory), on voit ici lesquels y sont.",
        "Alle {all} Experten sind eingeblendet, {all_bytes}: Das System behält sie im Speicher, solange niemand sonst "
        "ihn braucht. Mit einer Grenze (--memory) steht hier, welche darin sind.",
        "Tutti i {all} esperti sono mappati, {all_bytes}: il sistema li tiene in memoria finché non serve ad altro. "
        "Con un limite (--memory) qui si vede quali ci sono.",
        "Los {all} expertos están proyectados, {all_bytes}: el sistema los mantiene en memoria mientras nada más la "
        "necesite. Con un límite (--memory) aquí se ve cuáles están.",
    ),
    "memory_dense": (
        "A dense model: one expert plays every token, and it is always needed.",
        "Un modèle dense : un seul expert joue chaque token, et il faut toujours l’avoir.",
        "Ein dichtes Modell: Ein einziger Experte spielt jedes Token, und er wird immer gebraucht.",
        "Un modello denso: un solo esperto suona ogni token, e serve sempre.",
        "Un modelo denso: un solo experto toca cada token, y siempre hace falta.",
    ),
    "memory_is_held": (
        "Layer {layer}, expert {expert}: in memory",
        "Couche {layer}, expert {expert} : en mémoire",
        "Schicht {layer}, Experte {expert}: im Speicher",
        "Strato {layer}, esperto {expert}: in memoria",
        "Capa {layer}, experto {expert}: en memoria",
    ),
    "memory_is_away": (
        "Layer {layer}, expert {expert}: on disk",
        "Couche {layer}, expert {expert} : sur le disque",
        "Schicht {layer}, Experte {expert}: auf der Platte",
        "Strato {layer}, esperto {expert}: su disco",
        "Capa {layer}, experto {expert}: en disco",
    ),
    "memory_hits": (
        "Found in memory",
        "Trouvés en mémoire",
        "Im Speicher gefunden",
        "Trovati in memoria",
        "Hallados en memoria",
    ),
    "memory_hits_of": (
        "{share} of {all} visits",
        "{share} de {all} visites",
        "{share} von {all} Besuchen",
        "{share} di {all} visite",
        "{share} de {all} visitas",
    ),
    "memory_read": (
        "Read from disk",
        "Lus sur le disque",
        "Von der Platte gelesen",
        "Letti da disco",
        "Leídos del disco",
    ),
    "memory_read_bytes": (
        "{bytes}; waited {seconds} s for it",
        "{bytes} ; {seconds} s d’attente",
        "{bytes}; {seconds} s darauf gewartet",
        "{bytes}; {seconds} s di attesa",
        "{bytes}; {seconds} s de espera",
    ),
    "memory_pages": ("Cache pages", "Pages du cache", "Seiten des Caches", "Pagine della cache", "Páginas de la caché"),
    "memory_pages_used": (
        "{used} of {all} in use ({tokens} tokens, {bytes}); {known} of them remember beginnings",
        "{used} sur {all} occupées ({tokens} tokens, {bytes}) ; {known} d’entre elles retiennent des débuts",
        "{used} von {all} belegt ({tokens} Token, {bytes}); {known} davon merken sich Anfänge",
        "{used} su {all} occupate ({tokens} token, {bytes}); {known} di esse ricordano inizi",
        "{used} de {all} ocupadas ({tokens} tokens, {bytes}); {known} de ellas recuerdan comienzos",
    ),
    "memory_nothing": (
        "This address does not tell how its memory stands. A server of your own (`octuor ui`) shows it here.",
        "Cette adresse ne dit pas où en est sa mémoire. Un serveur à vous (`octuor ui`) le montre ici.",
        "Diese Adresse sagt nicht, wie es um ihren Speicher steht. Ein eigener Server (`octuor ui`) zeigt es hier.",
        "Questo indirizzo non dice come sta la sua memoria. Un server tuo (`octuor ui`) lo mostra qui.",
        "Esta dirección no dice cómo está su memoria. Un servidor propio (`octuor ui`) lo muestra aquí.",
    ),
}
