"""`edgert completion`: the script by which a shell completes edgert's commands, options and names."""

from __future__ import annotations

import click

VARIABLE = "_EDGERT_COMPLETE"  # by which a shell asks; click's choice of name
# click has had one of its own since 8.4 only. What is no name, PowerShell completes as a path by itself.
POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName edgert -ScriptBlock {
    param($word, $line, $cursor)
    $before = @($line.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor })
    $words = @($before | ForEach-Object { $_.ToString() }) + $word
    $env:COMP_WORDS = ($words -join ' ') -replace '\\\\', '/'
    $env:COMP_CWORD = $before.Count
    $env:_EDGERT_COMPLETE = 'bash_complete'
    try { $found = @(& edgert) }
    finally { Remove-Item Env:COMP_WORDS, Env:COMP_CWORD, Env:_EDGERT_COMPLETE }
    $found | Where-Object { $_ -like 'plain,*' } | ForEach-Object { $_.Substring(6) }
}
"""


@click.command(short_help="Let your shell complete what you type.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def completion(shell: str) -> None:
    """Print a script that lets a shell complete commands, options, and names of bundles and devices.

    \b
    eval "$(edgert completion bash)"                                 in ~/.bashrc
    eval "$(edgert completion zsh)"                                  in ~/.zshrc
    edgert completion fish | source                                  in config.fish
    edgert completion powershell | Out-String | Invoke-Expression    in $PROFILE

    Such a line works until the shell ends; in the file behind it, it works in every new shell.

    bash has to be 4.4 or newer; macOS brings an older one.
    """
    if shell == "powershell":
        click.echo(POWERSHELL, nl=False)
        return
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    from edgert.cli import main

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    click.echo(kind(main, {}, "edgert", VARIABLE).source(), nl=False)
